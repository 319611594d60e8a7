"""Records checkouts in the event store, and feedback in the impression log and the store."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from starlette.responses import JSONResponse, Response

from ..bundle_watcher import BundleWatcher
from ..checkout import HISTORY_KINDS, Event
from ..events.impression_log import ImpressionLog
from ..pipeline.request_ids import shown_state
from ..resilience.loggable import loggable_message
from ..storage.formats import event_kinds
from ..stores.base import Store
from ..stores.impressions import record_view
from ..stores.orders import OrderChange, keeps_orders
from .backends import is_writable
from .metrics import ServiceMetrics
from .middleware import logger
from .problems import ProblemError, not_configured_error, unavailable_error
from .schema import CheckoutIn, FeedbackIn, parse_body, profile_strings, to_events

T = TypeVar("T")
STORE_TIMEOUT = 5.0  # seconds for the store to record a checkout
VIEWED_KIND = "viewed"  # a slate was really on screen
STORED_FEEDBACK = ("click", "cart")  # kinds of a history; purchases come as checkouts


class EventRecorder:
    """Writes to the store and the log of a worker.

    Args:
        store, log: None for no store or no log.
        bundle_watcher: the loaded versions define the accepted kinds of feedback.
        queue_limit: maximum number of writes that wait for the store; further writes are refused or dropped.
        stores_views: whether feedback `viewed` enters the store, for the frequency cap.
    """

    def __init__(
        self,
        store: Store | None,
        log: ImpressionLog | None,
        metrics: ServiceMetrics,
        bundle_watcher: BundleWatcher,
        queue_limit: int,
        stores_views: bool = False,
    ) -> None:
        self.store, self.log, self.metrics, self.bundle_watcher = store, log, metrics, bundle_watcher
        self.queue_limit, self.pending_writes, self.stores_views = queue_limit, 0, stores_views
        self._store_executor = ThreadPoolExecutor(2, "records")

    async def record_checkout(self, body: bytes) -> Response:
        """Record a checkout in the store. The checkout is stored when the method returns."""
        store = self.store
        if store is None or not is_writable(store):
            raise not_configured_error("event store that can be written to", "--store")

        def append() -> int:
            checkout = parse_body(CheckoutIn, body)
            events, profile = to_events(checkout), profile_strings(checkout.profile)
            if checkout.order_id is not None and keeps_orders(store):
                content = checkout.model_dump_json(include={"basket", "ts", "profile"})
                order = OrderChange("record", checkout.order_id, events, content, profile)
                store.record_order(checkout.user_id, order)
            else:
                store.append(checkout.user_id, events, profile, checkout.order_id)
            return len(events)

        events = await self.write_store(append, "the checkout (an order_id makes it safe to repeat)")
        return JSONResponse({"events": events}, 201)

    async def write_store(self, work: Callable[[], T], what: str) -> T:
        """Run a write to the store and return its result.

        Raises ProblemError (503), with the reason, if the store has too many waiting writes or fails.
        """
        if self.pending_writes >= self.queue_limit:
            raise unavailable_error("the store has too many waiting writes")
        try:
            result = await asyncio.wait_for(asyncio.wrap_future(self._submit_write(work)), STORE_TIMEOUT)
        except ProblemError:
            raise
        except Exception as error:
            self.metrics.store_appends.labels("failed").inc()
            logger.error("the store failed: %s", loggable_message(error))
            reason = ": its file was removed" if isinstance(error, FileNotFoundError) else ""
            raise unavailable_error(f"the store did not record {what}{reason}") from None
        self.metrics.store_appends.labels("recorded").inc()
        return result

    def _submit_write(self, work: Callable[[], T]) -> Future[T]:
        """Run a write to the store in a thread of the store's pool."""
        self.pending_writes += 1
        loop = asyncio.get_running_loop()
        write = self._store_executor.submit(work)
        write.add_done_callback(lambda _: loop.call_soon_threadsafe(self._on_write_done))
        return write

    def _on_write_done(self) -> None:
        self.pending_writes -= 1

    async def record_feedback(self, body: bytes) -> Response:
        """Log a shopper's action on an item. Clicks and cart events are also written to the store."""
        if self.log is None:
            raise not_configured_error("impression log", "--log")
        feedback = parse_body(FeedbackIn, body)
        if feedback.request_id is None and feedback.user_id is None:
            field_error = {
                "field": "request_id",
                "pointer": "/request_id",
                "detail": "give request_id or user_id",
            }
            raise ProblemError(422, "request_id or user_id must be given", [field_error])
        self._check_feedback_kind(feedback.kind)
        if feedback.kind == VIEWED_KIND and feedback.request_id is None:
            detail = "kind viewed needs the request_id of the slate that was viewed"
            field_error = {"field": "request_id", "pointer": "/request_id", "detail": detail}
            raise ProblemError(422, f"request_id: {detail}", [field_error])
        ts = int(time.time()) if feedback.ts is None else feedback.ts
        if not self.write_log(
            lambda log: log.log_feedback(
                feedback.kind, feedback.request_id, feedback.item_id, ts, feedback.user_id, feedback.value
            )
        ):
            raise unavailable_error("the impression log did not record the feedback")
        shown = shown_state(feedback.request_id, feedback.item_id)
        self.metrics.feedback.labels(feedback.kind, shown).inc()
        # What the slate did not show stays in the log, where training counts it apart.
        if feedback.user_id is not None and feedback.kind in STORED_FEEDBACK and shown != "no":
            event = Event(feedback.item_id, ts, feedback.kind)
            self._append_click(feedback.user_id, event, feedback.request_id)
        if feedback.kind == VIEWED_KIND and self.stores_views and shown != "no":
            self._append_view(feedback, ts)
        return JSONResponse({"logged": 1, "shown": shown}, 202)

    def feedback_kinds(self) -> list[str]:
        """The accepted kinds of feedback: those of histories, `viewed`, and those that tasks predict."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        further = [kind for recommender in serving for kind in event_kinds(recommender.bundle.tasks)]
        return [*dict.fromkeys((*HISTORY_KINDS, VIEWED_KIND, *further))]

    def _check_feedback_kind(self, kind: str) -> None:
        """Raises ProblemError (422) for a kind of feedback for which no loaded bundle has a task."""
        if kind in (*HISTORY_KINDS, VIEWED_KIND):
            return
        if self.bundle_watcher.recommender is None:
            raise unavailable_error("no bundle is loaded yet: /readyz says why")  # nobody knows the tasks
        accepted = self.feedback_kinds()
        if kind not in accepted:
            predicted = [name for name in accepted if name not in (*HISTORY_KINDS, VIEWED_KIND)]
            detail = (
                f"expected an action ({', '.join(HISTORY_KINDS)}), {VIEWED_KIND} (the slate was on screen)"
                f" or a kind that a task of the bundle predicts ({', '.join(predicted) or 'none further'})"
            )
            raise ProblemError(
                422,
                f"kind is {kind!r}: {detail}",
                [{"field": "kind", "pointer": "/kind", "detail": detail}],
            )

    def _append_click(self, user_id: str, event: Event, request_id: str | None) -> None:
        """Store a click for the user's next request, in the form in which training reads clicks.

        The request does not wait for the write. A slow or failing store drops the click; the log keeps it.
        """
        store = self.store
        if store is None or not is_writable(store):
            return
        key = None if request_id is None else f"{request_id} {event.kind} {event.item_id}"
        self._write_later(partial(store.append, user_id, [event], None, key))

    def _append_view(self, feedback: FeedbackIn, ts: int) -> None:
        """Store that a slate was on screen. The key is the slate's order_id, else its request_id."""
        order_key = feedback.order_id or feedback.request_id
        if feedback.user_id is not None and order_key is not None:
            self._write_later(partial(record_view, self.store, feedback.user_id, order_key, ts))

    def _write_later(self, write: Callable[[], None]) -> None:
        """Write to the store without waiting. A slow store drops the write."""
        if self.pending_writes >= self.queue_limit:
            self.metrics.store_appends.labels("dropped").inc()
            return
        self._submit_write(write).add_done_callback(self._on_written_later)

    def _on_written_later(self, write: Future[None]) -> None:
        error = write.exception()
        self.metrics.store_appends.labels("failed" if error else "recorded").inc()
        if isinstance(error, Exception):
            logger.error("the store failed: %s", loggable_message(error))

    def write_log(self, write: Callable[[ImpressionLog], None]) -> bool:
        """Write to the log, which must exist. Returns whether the log accepted the record; never raises."""
        assert self.log is not None
        try:
            write(self.log)
        except Exception:
            # The slate is shown even if it is not logged.
            logger.exception("the log failed")
            self.metrics.log_records.labels("failed").inc()
            return False
        self.metrics.count_log_record(self.log.write_failure_count, self.log.dropped_count)
        return True

    def close(self) -> None:
        """Store all accepted writes."""
        self._store_executor.shutdown(wait=True)
