"""The service of one worker: recommender, store, log and metrics, started and closed with the application."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from starlette.responses import JSONResponse, Response

from ..bundle_watcher import BundleWatcher
from ..checkout import HISTORY_KINDS, Checkout, Event, Slate
from ..events.impression_log import ImpressionLog
from ..experiments.assignment import Assignment, assign_user, is_withheld
from ..experiments.declaration import read_experiments
from ..recommender import Recommender
from ..resilience.admission import AdmissionController, Overloaded
from ..resilience.deadline import error_message
from ..storage.formats import event_kinds
from ..stores.base import Store
from .backends import is_writable, open_service_store
from .body import JSON_MEDIA_TYPE
from .impression_writer import ImpressionWriter
from .metrics import ServiceMetrics
from .middleware import logger
from .problems import ProblemError, not_configured_error, unavailable_error
from .schema import (
    CheckoutIn,
    FeedbackIn,
    RecommendationIn,
    parse_body,
    profile_strings,
    reject_unknown_categories,
    slate_json,
    to_checkout,
    to_events,
)
from .settings import Settings

T = TypeVar("T")
STORE_TIMEOUT = 5.0  # seconds for the store to record a checkout
CLOSE_TIMEOUT = 5.0  # seconds for log and store to write their buffers
STORED_FEEDBACK = ("click", "cart")  # kinds of a history; purchases come as checkouts
RESPONSE_MARGIN_MS = 1.0  # ms to turn a slate into JSON and hand it to the event loop


class SlateResponse(NamedTuple):
    """A slate, the checkout that it answers, and its JSON."""

    checkout: Checkout
    slate: Slate
    body: bytes
    assignment: Assignment


class Service:
    """Recommender, store, log and metrics of a process."""

    def __init__(
        self, settings: Settings, store: Store | None = None, log: ImpressionLog | None = None
    ) -> None:
        self.settings = settings
        self.metrics = ServiceMetrics()
        self.log = ImpressionLog(settings.log) if log is None and settings.log is not None else log
        # An exported store comes with its bundle and is opened with each version.
        self.store = (
            open_service_store(settings.store, settings.bundle) if store is None and settings.store else store
        )
        self.experiments = None if settings.experiments is None else read_experiments(settings.experiments)
        self.admission = AdmissionController(settings.threads, settings.queue_limit, settings.deadline_ms)
        arm_versions = () if self.experiments is None else self.experiments.versions
        self.bundle_watcher = BundleWatcher(
            settings.bundle, self._load_recommender, settings.poll_seconds, self._on_bundle_load, arm_versions
        )
        for version in arm_versions:
            self.metrics.unserved_arm_versions.labels(version).set(1)
        self.pending_writes = 0
        self.impression_writer = ImpressionWriter(self.store, self.metrics, settings.queue_limit)
        self._store_executor = ThreadPoolExecutor(2, "records")
        self._current_version: str | None = None

    def _load_recommender(self, folder: Path) -> Recommender:
        store = self.store if self.store is not None else open_service_store(None, self.settings.bundle)
        recommender = Recommender.load(folder, store)
        recommender.exploration_rate = self.settings.explore
        return recommender

    def _on_bundle_load(self, outcome: str) -> None:
        self.metrics.bundle_loads.labels(outcome).inc()
        if outcome == "refused":
            return
        serving = self.bundle_watcher.recommenders
        for version in self.bundle_watcher.versions:
            self.metrics.unserved_arm_versions.labels(version).set(version not in serving)
        current = self.bundle_watcher.recommender
        if current is not None and current.bundle.version != self._current_version:
            if self._current_version is not None:
                self.metrics.bundle_workers.labels(self._current_version).set(0)
            self._current_version = current.bundle.version
            self.metrics.bundle_workers.labels(self._current_version).set(1)
        for recommender in serving.values():
            for stage, breaker in recommender.stage_stats.breakers.items():
                breaker.on_state_change = partial(self._on_breaker_change, recommender.bundle.version, stage)
                self.metrics.open_breakers.labels(stage).set(self._is_breaker_open(stage))

    def _on_breaker_change(self, version: str, stage: str, opened: bool) -> None:
        # A replaced version may still answer its last requests: they do not count.
        serving = tuple(self.bundle_watcher.recommenders.values())
        if any(recommender.bundle.version == version for recommender in serving):
            self.metrics.open_breakers.labels(stage).set(self._is_breaker_open(stage))
            if opened:
                self.metrics.breaker_trips.labels(stage).inc()

    def _is_breaker_open(self, stage: str) -> bool:
        """Whether the stage's breaker is open in any version that serves."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        return any(recommender.stage_stats.breakers[stage].is_open for recommender in serving)

    def recommender(self) -> Recommender:
        """The recommender of `current`. Raises ProblemError before the first version is loaded."""
        recommender = self.bundle_watcher.recommender
        if recommender is None:
            raise unavailable_error("no bundle is loaded yet: /readyz says why")
        return recommender

    async def recommend(self, body: bytes, arrival_time: float) -> Response:
        """The slate of a checkout: ranked, or popular items where the models would be too late."""
        recommender = self.recommender()

        def rank(deadline: float) -> SlateResponse:
            queue_ms = 1e3 * (time.perf_counter() - arrival_time)
            checkout = to_checkout(parse_body(RecommendationIn, body))
            reject_unknown_categories(recommender, checkout)
            remaining_ms = 1e3 * (deadline - time.perf_counter()) - RESPONSE_MARGIN_MS
            arms = self._assignment(checkout)
            slate = self._recommender_for(arms, recommender).recommend(
                checkout, remaining_ms, arms.revenue_weight, exploration_rate=arms.explore
            )
            slate = replace(slate, timings={"queue": queue_ms, **slate.timings})
            return self._slate_response(checkout, slate, arms)

        def fall_back(reason: str) -> SlateResponse:
            request = parse_body(RecommendationIn, body)
            request.history = None  # a fallback does not read it, and parsing it costs most
            checkout = to_checkout(request)
            reject_unknown_categories(recommender, checkout)
            arms = self._assignment(checkout)
            slate = self._recommender_for(arms, recommender).fallback_slate(checkout, reason, arrival_time)
            return self._slate_response(checkout, slate, arms)

        try:
            response = await self.admission.execute(rank, fall_back, arrival_time)
        except Overloaded as error:
            self.metrics.overload_rejections.inc()
            raise unavailable_error(f"overloaded: {error}") from None
        self.metrics.count_slate(response.slate)
        if self.log is not None:
            checkout, slate, arms = response.checkout, response.slate, response.assignment
            arm = arms.arms or ("exploring" if recommender.exploration_rate else "")
            self._write_log(lambda log: log.log_slate(checkout, slate, arm, arms.withhold))
        if self._has_frequency_cap():
            self.impression_writer.write(response.checkout, response.slate)
        return Response(response.body, media_type=JSON_MEDIA_TYPE)

    def _has_frequency_cap(self) -> bool:
        """Whether a bundle that serves reads what its users were shown."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        return any(recommender.policy.frequency_cap is not None for recommender in serving)

    def _assignment(self, checkout: Checkout) -> Assignment:
        """The arms of the checkout's user; none without experiments."""
        if self.experiments is None:
            return Assignment()
        return assign_user(self.experiments, checkout.user_id)

    def _slate_response(self, checkout: Checkout, slate: Slate, arms: Assignment) -> SlateResponse:
        """The answer with a slate, which an experiment may hold back."""
        checkout_id = checkout.order_id or slate.request_id
        if self.experiments is not None and is_withheld(self.experiments, arms, checkout_id):
            slate = replace(slate, withheld=True)
        return SlateResponse(checkout, slate, slate_json(slate), arms)

    def _recommender_for(self, arms: Assignment, current: Recommender) -> Recommender:
        """The version that one of the arms names; `current` if none does or it cannot serve."""
        if arms.version is None:
            return current
        return self.bundle_watcher.recommenders.get(arms.version, current)

    def arm_versions(self) -> dict[str, str]:
        """Version that an arm names → the version that answers for it."""
        current, serving = self.recommender(), self.bundle_watcher.recommenders
        return {name: serving.get(name, current).bundle.version for name in self.bundle_watcher.versions}

    async def record_checkout(self, body: bytes) -> Response:
        """Record a checkout in the store; it is stored when this returns."""
        store = self.store
        if store is None or not is_writable(store):
            raise not_configured_error("event store that can be written to", "--store")

        def append() -> int:
            checkout = parse_body(CheckoutIn, body)
            events = to_events(checkout)
            store.append(checkout.user_id, events, profile_strings(checkout.profile), checkout.order_id)
            return len(events)

        if self.pending_writes >= self.settings.queue_limit:
            raise unavailable_error("the store is behind")
        try:
            events = await asyncio.wait_for(asyncio.wrap_future(self._submit_write(append)), STORE_TIMEOUT)
        except ProblemError:
            raise
        except Exception as error:
            self.metrics.store_appends.labels("failed").inc()
            logger.error("the store failed: %s", error_message(error))
            raise unavailable_error(
                "the store did not take the checkout (an order_id makes it safe to repeat)"
            ) from None
        self.metrics.store_appends.labels("recorded").inc()
        return JSONResponse({"events": events}, 201)

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
        """Log a shopper's action on an item; clicks and carts enter the store too."""
        if self.log is None:
            raise not_configured_error("impression log", "--log")
        feedback = parse_body(FeedbackIn, body)
        if feedback.request_id is None and feedback.user_id is None:
            field_error = {"field": "request_id", "pointer": "/request_id", "detail": "give it, or user_id"}
            raise ProblemError(422, "request_id or user_id must be given", [field_error])
        self._check_feedback_kind(feedback.kind)
        ts = int(time.time()) if feedback.ts is None else feedback.ts
        if not self._write_log(
            lambda log: log.log_feedback(
                feedback.kind, feedback.request_id, feedback.item_id, ts, feedback.user_id, feedback.value
            )
        ):
            raise unavailable_error("the log did not take the feedback")
        if feedback.user_id is not None and feedback.kind in STORED_FEEDBACK:
            event = Event(feedback.item_id, ts, feedback.kind)
            self._append_click(feedback.user_id, event, feedback.request_id)
        return JSONResponse({"logged": 1}, 202)

    def feedback_kinds(self) -> list[str]:
        """The kinds of feedback that count: those of histories, and those that a serving bundle predicts."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        further = [kind for recommender in serving for kind in event_kinds(recommender.bundle.tasks)]
        return [*dict.fromkeys((*HISTORY_KINDS, *further))]

    def _check_feedback_kind(self, kind: str) -> None:
        """Raises ProblemError (422) for a kind that no bundle which serves has a task for."""
        if kind in HISTORY_KINDS:
            return
        self.recommender()  # before the first bundle nobody knows the tasks
        accepted = self.feedback_kinds()
        if kind not in accepted:
            detail = f"expected one of {', '.join(accepted)}: the kinds that a task of the bundle predicts"
            raise ProblemError(
                422,
                f"kind is {kind!r}: {detail}",
                [{"field": "kind", "pointer": "/kind", "detail": detail}],
            )

    def _append_click(self, user_id: str, event: Event, request_id: str | None) -> None:
        """Store a click for the user's next request, as training has it.

        Nobody waits for it. A store that is behind or fails drops it; the log keeps it.
        """
        store = self.store
        if store is None or not is_writable(store):
            return
        if self.pending_writes >= self.settings.queue_limit:
            self.metrics.store_appends.labels("dropped").inc()
            return
        key = None if request_id is None else f"{request_id} {event.kind} {event.item_id}"
        self._submit_write(partial(store.append, user_id, [event], None, key)).add_done_callback(
            self._on_click_appended
        )

    def _on_click_appended(self, write: Future[None]) -> None:
        error = write.exception()
        self.metrics.store_appends.labels("failed" if error else "recorded").inc()
        if isinstance(error, Exception):
            logger.error("the store failed: %s", error_message(error))

    def _write_log(self, write: Callable[[ImpressionLog], None]) -> bool:
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

    async def close(self) -> None:
        """Write and close log and store. A part that takes longer than CLOSE_TIMEOUT is abandoned."""
        self.admission.close()
        closing = {"bundle": self.bundle_watcher.close, "store": self._close_store}
        if self.log is not None:
            closing["log"] = self.log.close
        threads = [threading.Thread(target=close, name=part, daemon=True) for part, close in closing.items()]
        close_deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, close_deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("the %s is stuck and was not closed", thread.name)

    def _close_store(self) -> None:
        self._store_executor.shutdown(wait=True)  # accepted writes are stored
        self.impression_writer.close()
        if self.store is not None:
            self.store.close()
