"""A circuit breaker: a component that failed a few times in a row is skipped for a while."""

import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after `failure_threshold` failures in a row; lets one request try again after `reset_timeout`.

    The breaker stays open while an abandoned call is still running, because each trial could occupy another
    thread forever. Concurrent failures count once. Safe to share between threads.

    Attributes:
        on_state_change: called with True when the breaker opens, with False when the component works again.
    """

    def __init__(
        self,
        failure_threshold: int = 3,
        reset_timeout: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure_threshold, self.reset_timeout, self.clock = failure_threshold, reset_timeout, clock
        self.failures = 0  # in a row
        self.abandoned = 0  # calls that nobody waits for and that have not returned
        self.on_state_change: Callable[[bool], None] = lambda opened: None
        self._failed_at = self._open_until = float("-inf")
        self._lock = threading.Lock()

    def allow_request(self) -> bool:
        """Whether to call the component. After `reset_timeout`, only the first caller gets True."""
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
                was_open, self.failures = self.failures >= self.failure_threshold, 0
                if was_open:
                    self.on_state_change(False)

    def record_failure(self, duration_s: float = 0.0) -> None:
        """Count a call that failed after `duration_s` seconds."""
        with self._lock:
            now = self.clock()
            if now - duration_s < self._failed_at:
                return  # it overlapped the failure counted last: one cause
            self._failed_at = now
            self.failures += 1
            if self.failures >= self.failure_threshold:
                self._open_until = now + self.reset_timeout
            if self.failures == self.failure_threshold:
                self.on_state_change(True)

    def record_abandoned(self) -> None:
        """Count an abandoned call."""
        with self._lock:
            self.abandoned += 1

    def record_returned(self) -> None:
        """Count the return of an abandoned call."""
        with self._lock:
            self.abandoned -= 1
