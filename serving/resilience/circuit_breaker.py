"""A part that failed a few times in a row is left alone for a while, so that it costs no request its time."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `limit` failures in a row; after `rest` seconds one request tries the part again.

    Not while a call that was left behind has not returned: each would cost a thread that never comes back.
    Failures of calls that were under way at the same time count once. Safe to share between threads.

    Attributes:
        notice: called when it opens (True), and when the part works again (False).
    """

    def __init__(self, limit: int = 3, rest: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.rest, self.now = limit, rest, now
        self.failures = 0
        self.lost = 0  # calls that were left behind
        self.notice: Callable[[bool], None] = lambda opened: None
        self._failed_at = self._until = float("-inf")
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Whether to try the part. Where it rested long enough, only the first who asks is told so."""
        if self.failures < self.limit:
            return True
        with self._lock:
            if self.lost or self.now() < self._until:
                return False
            self._until = self.now() + self.rest
            return True

    @property
    def resting(self) -> bool:
        return self.failures >= self.limit

    def worked(self) -> None:
        if self.failures:
            with self._lock:
                opened, self.failures = self.failures >= self.limit, 0
                if opened:
                    self.notice(False)

    def failed(self, took: float = 0.0) -> None:
        """A call that took so many seconds failed."""
        with self._lock:
            now = self.now()
            if now - took < self._failed_at:
                return  # of the same cause as the one that was counted
            self._failed_at = now
            self.failures += 1
            if self.failures >= self.limit:
                self._until = now + self.rest
            if self.failures == self.limit:
                self.notice(True)

    def left(self) -> None:
        """Nobody waits for a call any more."""
        with self._lock:
            self.lost += 1

    def returned(self) -> None:
        """One that was left behind has ended."""
        with self._lock:
            self.lost -= 1
