"""A part that failed a few times in a row is left alone for a while, so that it costs no request its time."""

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after `limit` failures in a row; after `rest` seconds one request tries the part again.

    Safe to share between threads.
    """

    def __init__(self, limit: int = 3, rest: float = 1.0, now: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.rest, self.now = limit, rest, now
        self.failures = 0
        self.opened = 0  # how many times, for metrics
        self._until = 0.0
        self._lock = threading.Lock()

    def ready(self) -> bool:
        """Whether to try the part. Where it rested long enough, only the first who asks is told so."""
        if self.failures < self.limit:
            return True
        with self._lock:
            if self.now() < self._until:
                return False
            self._until = self.now() + self.rest
            return True

    def worked(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        with self._lock:
            self.failures += 1
            if self.failures >= self.limit:
                self.opened += self.failures == self.limit
                self._until = self.now() + self.rest
