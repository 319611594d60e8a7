"""Writes impressions to the store after the answer, so that no slate waits."""

import queue
import threading
import time
from collections.abc import Callable

from ..checkout import Checkout, Slate
from ..resilience.loggable import loggable_message
from ..stores.impressions import keeps_impressions, record_impressions
from .metrics import ServiceMetrics
from .middleware import logger

ERROR_LOG_SECONDS = 60.0  # between two lines about a store that fails


class ImpressionWriter:
    """A queue of slates to record, and the thread that writes them to the store.

    If the store is slow or fails, impressions are lost, and an item may be shown more often than the cap
    allows. Orders have a separate queue, so impressions never displace them.

    Args:
        store: any store; nothing is written to a store that keeps no impressions.
        queue_limit: maximum number of waiting slates; further slates are dropped.
    """

    def __init__(self, store: object, metrics: ServiceMetrics, queue_limit: int) -> None:
        self._store, self._metrics = store, metrics
        self._queue: queue.Queue[tuple[Checkout, Slate, int] | None] = queue.Queue(queue_limit)
        self._thread = threading.Thread(target=self._write_queue, name="impressions", daemon=True)
        self._last_error_time = -ERROR_LOG_SECONDS
        # Whether a user was forgotten at or after a time (Unix seconds): what waits from before is dropped.
        self.is_forgotten: Callable[[str, float], bool] | None = None
        self.is_enabled = keeps_impressions(store)
        if self.is_enabled:
            self._thread.start()

    def write(self, checkout: Checkout, slate: Slate) -> None:
        """Queue a slate to be recorded. Never waits and never raises."""
        if not self.is_enabled or checkout.user_id is None or slate.withheld or not slate.items:
            return
        try:
            self._queue.put_nowait((checkout, slate, int(time.time())))
        except queue.Full:
            self._metrics.store_impressions.labels("dropped").inc()

    def flush(self) -> None:
        """Wait until all slates of the queue are written or have failed."""
        self._queue.join()

    def close(self) -> None:
        """Write all queued slates, then end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _write_queue(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                checkout, _, queued_at = entry
                if self.is_forgotten is not None and self.is_forgotten(checkout.user_id or "", queued_at):
                    continue
                record_impressions(self._store, *entry)
                self._metrics.store_impressions.labels("recorded").inc()
            except Exception as error:
                self._on_failure(error)
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _on_failure(self, error: Exception) -> None:
        self._metrics.store_impressions.labels("failed").inc()
        if time.monotonic() - self._last_error_time >= ERROR_LOG_SECONDS:
            self._last_error_time = time.monotonic()
            logger.error("the store did not record a user's impressions: %s", loggable_message(error))
