"""A part that failed a few times in a row is left alone for a while, so that it costs no request its time."""

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `limit` failures in a row; after `rest` seconds one request tries the part again.

    Not while a call that was left behind has not returned: each would cost a thread that never comes back.
    Failures of calls that were under way at the same time count once. Safe to share between threads.

    Attributes:
        notice: called when it opens (True), and when the part works again (False).
    """

    def __init__(
        self,
        failure_threshold: int = 3,
        reset_timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure_threshold, self.reset_timeout, self.clock = failure_threshold, reset_timeout, clock
        self.failures = 0
        self.abandoned = 0  # calls that were left behind
        self.on_state_change: Callable[[bool], None] = lambda opened: None
        self._failed_at = self._open_until = float("-inf")
        self._lock = threading.Lock()

    def allow_request(self) -> bool:
        """Whether to try the part. Where it rested long enough, only the first who asks is told so."""
        if self.failures < self.failure_threshold:
            return True
        with self._lock:
            if self.abandoned or self.clock() < self._open_until:
                return False
            self._open_until = self.clock() + self.reset_timeout
            return True

    @property
    def is_open(self) -> bool:
        return self.failures >= self.failure_threshold

    def record_success(self) -> None:
        if self.failures:
            with self._lock:
                opened, self.failures = self.failures >= self.failure_threshold, 0
                if opened:
                    self.on_state_change(False)

    def record_failure(self, duration_s: float = 0.0) -> None:
        """A call that took so many seconds failed."""
        with self._lock:
            now = self.clock()
            if now - duration_s < self._failed_at:
                return  # of the same cause as the one that was counted
            self._failed_at = now
            self.failures += 1
            if self.failures >= self.failure_threshold:
                self._open_until = now + self.reset_timeout
            if self.failures == self.failure_threshold:
                self.on_state_change(True)

    def record_abandoned(self) -> None:
        """Nobody waits for a call any more."""
        with self._lock:
            self.abandoned += 1

    def record_returned(self) -> None:
        """One that was left behind has ended."""
        with self._lock:
            self.abandoned -= 1
