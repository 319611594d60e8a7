"""What a worker holds, and how it answers: one per process, started and closed with the application."""

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
from ..checkout import Checkout, Event, Slate
from ..events.impression_log import ImpressionLog
from ..experiments import assignment
from ..recommender import Recommender
from ..resilience.admission import AdmissionController, Overloaded
from ..resilience.deadline import error_message
from ..stores.base import Store
from .backends import is_writable, open_service_store
from .body import JSON_MEDIA_TYPE
from .metrics import ServiceMetrics
from .middleware import logger
from .problems import ProblemError, not_configured_error, unavailable_error
from .schema import (
    CheckoutIn,
    FeedbackIn,
    RecommendationIn,
    parse_body,
    profile_strings,
    slate_json,
    to_checkout,
    to_events,
)
from .settings import Settings

T = TypeVar("T")
STORE_TIMEOUT = 5.0  # for the store to note a checkout
CLOSE_TIMEOUT = 5.0  # seconds that log and store have to write what they hold
RESPONSE_MARGIN_MS = 1.0  # ms that a slate takes to become JSON and reach the loop


class SlateResponse(NamedTuple):
    """A slate and what it answers."""

    checkout: Checkout
    slate: Slate
    body: bytes
    arms: str


class Service:
    """Recommender, store, log and numbers of a process."""

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
        self.experiments = (
            None if settings.experiments is None else assignment.read_experiments(settings.experiments)
        )
        self.admission = AdmissionController(settings.threads, settings.queue_limit, settings.deadline_ms)
        named = () if self.experiments is None else self.experiments.versions
        self.bundle_watcher = BundleWatcher(
            settings.bundle, self._load_recommender, settings.poll_seconds, self._on_bundle_load, named
        )
        for version in named:
            self.metrics.unserved_arm_versions.labels(version).set(1)
        self.pending_writes = 0
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
            for part, breaker in recommender.stage_stats.breakers.items():
                breaker.on_state_change = partial(self._on_breaker_change, recommender.bundle.version, part)
                self.metrics.open_breakers.labels(part).set(self._is_breaker_open(part))

    def _on_breaker_change(self, version: str, part: str, opened: bool) -> None:
        # The last requests of one that was replaced say nothing of those that serve.
        if any(one.bundle.version == version for one in tuple(self.bundle_watcher.recommenders.values())):
            self.metrics.open_breakers.labels(part).set(self._is_breaker_open(part))
            if opened:
                self.metrics.breaker_trips.labels(part).inc()

    def _is_breaker_open(self, part: str) -> bool:
        """Whether a part of any version that serves rests."""
        return any(
            one.stage_stats.breakers[part].is_open for one in tuple(self.bundle_watcher.recommenders.values())
        )

    def recommender(self) -> Recommender:
        """What answers now. Raises Refused before the first version is loaded."""
        recommender = self.bundle_watcher.recommender
        if recommender is None:
            raise unavailable_error("no bundle is loaded yet: /readyz says why")
        return recommender

    async def recommend(self, body: bytes, arrived: float) -> Response:
        """The slate of a checkout, by the models or, if they would be too late, what is popular."""
        recommender = self.recommender()

        def models(ends: float) -> SlateResponse:
            waited = 1e3 * (time.perf_counter() - arrived)
            checkout = to_checkout(parse_body(RecommendationIn, body))
            left = 1e3 * (ends - time.perf_counter()) - RESPONSE_MARGIN_MS
            mine = self._assignment(checkout)
            answers = self._recommender_for(mine, recommender)
            slate = answers.recommend(checkout, left, mine.revenue_weight, exploration_rate=mine.explore)
            slate = replace(slate, timings={"queue": waited, **slate.timings})
            return SlateResponse(checkout, slate, slate_json(slate), mine.arms)

        def fallback(why: str) -> SlateResponse:
            asked = parse_body(RecommendationIn, body)
            asked.history = None  # of no use here, and most of a checkout's work
            checkout = to_checkout(asked)
            mine = self._assignment(checkout)
            slate = self._recommender_for(mine, recommender).fallback_slate(checkout, why, arrived)
            return SlateResponse(checkout, slate, slate_json(slate), mine.arms)

        try:
            answer = await self.admission.execute(models, fallback, arrived)
        except Overloaded as error:
            self.metrics.overload_rejections.inc()
            raise unavailable_error(f"overloaded: {error}") from None
        self.metrics.count_slate(answer.slate)
        if self.log is not None:
            arm = answer.arms or ("exploring" if recommender.exploration_rate else "")
            self._write_log(lambda log: log.log_slate(answer.checkout, answer.slate, arm))
        return Response(answer.body, media_type=JSON_MEDIA_TYPE)

    def _assignment(self, checkout: Checkout) -> assignment.Assignment:
        """The arms of a checkout's user; none without experiments."""
        if self.experiments is None:
            return assignment.Assignment()
        return assignment.assign_user(self.experiments, checkout.user_id)

    def _recommender_for(self, mine: assignment.Assignment, current: Recommender) -> Recommender:
        """What answers for the arms: the version that one of them names, unless it cannot serve."""
        return (
            current if mine.version is None else self.bundle_watcher.recommenders.get(mine.version, current)
        )

    def arm_versions(self) -> dict[str, str]:
        """The versions that arms name, each with the version that answers for it."""
        current, serving = self.recommender(), self.bundle_watcher.recommenders
        return {name: serving.get(name, current).bundle.version for name in self.bundle_watcher.versions}

    async def record_checkout(self, body: bytes) -> Response:
        """Note a checkout in the store; it is there when this returns."""
        store = self.store
        if store is None or not is_writable(store):
            raise not_configured_error("event store that can be written to", "--store")

        def append() -> int:
            asked = parse_body(CheckoutIn, body)
            events = to_events(asked)
            store.append(asked.user_id, events, profile_strings(asked.profile), asked.order_id)
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
        """Something that writes to the store, in a thread of its own."""
        self.pending_writes += 1
        loop = asyncio.get_running_loop()
        found = self._store_executor.submit(work)
        found.add_done_callback(lambda _: loop.call_soon_threadsafe(self._on_write_done))
        return found

    def _on_write_done(self) -> None:
        self.pending_writes -= 1

    async def record_feedback(self, body: bytes) -> Response:
        """Log what a shopper did."""
        if self.log is None:
            raise not_configured_error("impression log", "--log")
        asked = parse_body(FeedbackIn, body)
        if asked.request_id is None and asked.user_id is None:
            wrong = {"field": "request_id", "pointer": "/request_id", "detail": "give it, or user_id"}
            raise ProblemError(422, "request_id or user_id must be given", [wrong])
        ts = int(time.time()) if asked.ts is None else asked.ts
        if not self._write_log(
            lambda log: log.log_feedback(
                asked.kind, asked.request_id, asked.item_id, ts, asked.user_id, asked.value
            )
        ):
            raise unavailable_error("the log did not take the feedback")
        if asked.user_id is not None and asked.kind != "purchase":  # what is bought comes as a checkout
            self._append_click(asked.user_id, Event(asked.item_id, ts, asked.kind), asked.request_id)
        return JSONResponse({"logged": 1}, 202)

    def _append_click(self, user_id: str, event: Event, request_id: str | None) -> None:
        """Let a click count in the user's next request, as it does in training. Nobody waits for it, and a
        store that is behind or fails goes without: the log has it."""
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

    def _on_click_appended(self, work: Future[None]) -> None:
        error = work.exception()
        self.metrics.store_appends.labels("failed" if error else "recorded").inc()
        if isinstance(error, Exception):
            logger.error("the store failed: %s", error_message(error))

    def _write_log(self, write: Callable[[ImpressionLog], None]) -> bool:
        assert self.log is not None
        try:
            write(self.log)
        except Exception:
            # A slate is shown even if nobody will learn from it.
            logger.exception("the log failed")
            self.metrics.log_records.labels("failed").inc()
            return False
        self.metrics.count_log_record(self.log.write_failure_count, self.log.dropped_count)
        return True

    async def close(self) -> None:
        """Write and close log and store. What is stuck is left behind after CLOSING seconds."""
        self.admission.close()
        closing = {"bundle": self.bundle_watcher.close, "store": self._close_store}
        if self.log is not None:
            closing["log"] = self.log.close
        threads = [threading.Thread(target=close, name=part, daemon=True) for part, close in closing.items()]
        ends = time.monotonic() + CLOSE_TIMEOUT
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                logger.error("the %s is stuck and was not closed", thread.name)

    def _close_store(self) -> None:
        self._store_executor.shutdown(wait=True)  # what was taken is stored
        if self.store is not None:
            self.store.close()
