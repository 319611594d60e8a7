"""Checks the health of the store's file and of the log. A thread does so every second, outside requests."""

import threading

from ..events.impression_log import ImpressionLog
from ..resilience.deadline import error_message
from ..stores.sqlite import EmbeddedStore
from .metrics import ServiceMetrics

POLL_INTERVAL_S = 1.0


class HealthMonitor:
    """Sets the gauges of store and log, and keeps the reasons for /readyz.

    Args:
        store: only an embedded store has a file to check.
        log: None for no log, which counts as writable.
    """

    def __init__(self, store: object, log: ImpressionLog | None, metrics: ServiceMetrics) -> None:
        self._store, self._log, self._metrics = store, log, metrics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll_until_stopped, name="health", daemon=True)
        metrics.store_available.set(1)
        metrics.log_writable.set(1)

    def start(self) -> None:
        """Start checking every POLL_INTERVAL_S."""
        self._thread.start()

    def close(self) -> None:
        """Stop checking."""
        self._stop.set()

    def poll(self) -> list[str]:
        """Set the gauges. Returns the problems; never raises."""
        store_problem = self._store_problem()
        log_problem = getattr(self._log, "write_problem", "")  # a log of your own may have none
        self._metrics.store_available.set(not store_problem)
        self._metrics.log_writable.set(not log_problem)
        problems = {"store": store_problem, "log": log_problem}
        return [f"{part}: {problem}" for part, problem in problems.items() if problem]

    def _store_problem(self) -> str:
        if not isinstance(self._store, EmbeddedStore):
            return ""
        try:
            self._store.check()
        except Exception as error:
            return error_message(error)
        return ""

    def _poll_until_stopped(self) -> None:
        while not self._stop.wait(POLL_INTERVAL_S):
            self.poll()
