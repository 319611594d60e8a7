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

from ..bundle_watcher import Swap
from ..checkout import Checkout, Event, Slate
from ..events.impression_log import ImpressionLog
from ..experiments import assignment
from ..recommender import Recommender
from ..resilience.admission import Busy, Desk
from ..resilience.deadline import reason_of
from ..stores.base import Store
from .backends import accepts_events, open_store
from .body import JSON
from .metrics import Metrics
from .middleware import logger
from .problems import Refused, busy, missing
from .schema import (
    CheckoutIn,
    FeedbackIn,
    RecommendationIn,
    checkout_of,
    events_of,
    read,
    slate_json,
    words_of,
)
from .settings import Settings

T = TypeVar("T")
STORE_SECONDS = 5.0  # for the store to note a checkout
CLOSING = 5.0  # seconds that log and store have to write what they hold
MARGIN = 1.0  # ms that a slate takes to become JSON and reach the loop


class Answer(NamedTuple):
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
        self.metrics = Metrics()
        self.log = ImpressionLog(settings.log) if log is None and settings.log is not None else log
        # An exported store comes with its bundle and is opened with each version.
        self.store = (
            open_store(settings.store, settings.bundle) if store is None and settings.store else store
        )
        self.experiments = None if settings.experiments is None else assignment.read(settings.experiments)
        self.desk = Desk(settings.threads, settings.limit, settings.deadline_ms)
        named = () if self.experiments is None else self.experiments.versions
        self.swap = Swap(settings.bundle, self._load, settings.poll_s, self._loaded, named)
        for version in named:
            self.metrics.unserved.labels(version).set(1)
        self.recording = 0
        self._records = ThreadPoolExecutor(2, "records")
        self._version: str | None = None

    def _load(self, folder: Path) -> Recommender:
        store = self.store if self.store is not None else open_store(None, self.settings.bundle)
        recommender = Recommender.load(folder, store)
        recommender.explore = self.settings.explore
        return recommender

    def _loaded(self, outcome: str) -> None:
        self.metrics.loads.labels(outcome).inc()
        if outcome == "refused":
            return
        serving = self.swap.serving
        for version in self.swap.versions:
            self.metrics.unserved.labels(version).set(version not in serving)
        current = self.swap.recommender
        if current is not None and current.bundle.version != self._version:
            if self._version is not None:
                self.metrics.bundle.labels(self._version).set(0)
            self._version = current.bundle.version
            self.metrics.bundle.labels(self._version).set(1)
        for recommender in serving.values():
            for part, breaker in recommender.stages.breakers.items():
                breaker.notice = partial(self._noticed, recommender.bundle.version, part)
                self.metrics.resting.labels(part).set(self._rests(part))

    def _noticed(self, version: str, part: str, opened: bool) -> None:
        # The last requests of one that was replaced say nothing of those that serve.
        if any(one.bundle.version == version for one in tuple(self.swap.serving.values())):
            self.metrics.resting.labels(part).set(self._rests(part))
            if opened:
                self.metrics.trips.labels(part).inc()

    def _rests(self, part: str) -> bool:
        """Whether a part of any version that serves rests."""
        return any(one.stages.breakers[part].resting for one in tuple(self.swap.serving.values()))

    def recommender(self) -> Recommender:
        """What answers now. Raises Refused before the first version is loaded."""
        recommender = self.swap.recommender
        if recommender is None:
            raise busy("no bundle is loaded yet: /readyz says why")
        return recommender

    async def recommend(self, body: bytes, arrived: float) -> Response:
        """The slate of a checkout, by the models or, if they would be too late, what is popular."""
        recommender = self.recommender()

        def models(ends: float) -> Answer:
            waited = 1e3 * (time.perf_counter() - arrived)
            checkout = checkout_of(read(RecommendationIn, body))
            left = 1e3 * (ends - time.perf_counter()) - MARGIN
            mine = self._assigned(checkout)
            answers = self._version_of(mine, recommender)
            slate = answers.recommend(checkout, left, mine.revenue_weight, explore=mine.explore)
            slate = replace(slate, timings={"queue": waited, **slate.timings})
            return Answer(checkout, slate, slate_json(slate), mine.arms)

        def fallback(why: str) -> Answer:
            asked = read(RecommendationIn, body)
            asked.history = None  # of no use here, and most of a checkout's work
            checkout = checkout_of(asked)
            mine = self._assigned(checkout)
            slate = self._version_of(mine, recommender).fall_back(checkout, why, arrived)
            return Answer(checkout, slate, slate_json(slate), mine.arms)

        try:
            answer = await self.desk.answer(models, fallback, arrived)
        except Busy as error:
            self.metrics.shed.inc()
            raise busy(f"overloaded: {error}") from None
        self.metrics.slate(answer.slate)
        if self.log is not None:
            arm = answer.arms or ("exploring" if recommender.explore else "")
            self._note(lambda log: log.slate(answer.checkout, answer.slate, arm))
        return Response(answer.body, media_type=JSON)

    def _assigned(self, checkout: Checkout) -> assignment.Assigned:
        """The arms of a checkout's user; none without experiments."""
        if self.experiments is None:
            return assignment.Assigned()
        return assignment.assigned(self.experiments, checkout.user_id)

    def _version_of(self, mine: assignment.Assigned, current: Recommender) -> Recommender:
        """What answers for the arms: the version that one of them names, unless it cannot serve."""
        return current if mine.version is None else self.swap.serving.get(mine.version, current)

    def answering(self) -> dict[str, str]:
        """The versions that arms name, each with the version that answers for it."""
        current, serving = self.recommender(), self.swap.serving
        return {name: serving.get(name, current).bundle.version for name in self.swap.versions}

    async def record(self, body: bytes) -> Response:
        """Note a checkout in the store; it is there when this returns."""
        store = self.store
        if store is None or not accepts_events(store):
            raise missing("event store that can be written to", "--store")

        def append() -> int:
            asked = read(CheckoutIn, body)
            events = events_of(asked)
            store.append(asked.user_id, events, words_of(asked.profile), asked.order_id)
            return len(events)

        if self.recording >= self.settings.limit:
            raise busy("the store is behind")
        try:
            events = await asyncio.wait_for(asyncio.wrap_future(self._append(append)), STORE_SECONDS)
        except Refused:
            raise
        except Exception as error:
            self.metrics.store.labels("failed").inc()
            logger.error("the store failed: %s", reason_of(error))
            raise busy("the store did not take the checkout (an order_id makes it safe to repeat)") from None
        self.metrics.store.labels("recorded").inc()
        return JSONResponse({"events": events}, 201)

    def _append(self, work: Callable[[], T]) -> Future[T]:
        """Something that writes to the store, in a thread of its own."""
        self.recording += 1
        loop = asyncio.get_running_loop()
        found = self._records.submit(work)
        found.add_done_callback(lambda _: loop.call_soon_threadsafe(self._recorded))
        return found

    def _recorded(self) -> None:
        self.recording -= 1

    async def feedback(self, body: bytes) -> Response:
        """Log what a shopper did."""
        if self.log is None:
            raise missing("impression log", "--log")
        asked = read(FeedbackIn, body)
        if asked.request_id is None and asked.user_id is None:
            wrong = {"field": "request_id", "pointer": "/request_id", "detail": "give it, or user_id"}
            raise Refused(422, "request_id or user_id must be given", [wrong])
        ts = int(time.time()) if asked.ts is None else asked.ts
        if not self._note(
            lambda log: log.feedback(
                asked.kind, asked.request_id, asked.item_id, ts, asked.user_id, asked.value
            )
        ):
            raise busy("the log did not take the feedback")
        if asked.user_id is not None and asked.kind != "purchase":  # what is bought comes as a checkout
            self._remember(asked.user_id, Event(asked.item_id, ts, asked.kind), asked.request_id)
        return JSONResponse({"logged": 1}, 202)

    def _remember(self, user_id: str, event: Event, request_id: str | None) -> None:
        """Let a click count in the user's next request, as it does in training. Nobody waits for it, and a
        store that is behind or fails goes without: the log has it."""
        store = self.store
        if store is None or not accepts_events(store):
            return
        if self.recording >= self.settings.limit:
            self.metrics.store.labels("dropped").inc()
            return
        key = None if request_id is None else f"{request_id} {event.kind} {event.item_id}"
        self._append(partial(store.append, user_id, [event], None, key)).add_done_callback(self._remembered)

    def _remembered(self, work: Future[None]) -> None:
        error = work.exception()
        self.metrics.store.labels("failed" if error else "recorded").inc()
        if isinstance(error, Exception):
            logger.error("the store failed: %s", reason_of(error))

    def _note(self, write: Callable[[ImpressionLog], None]) -> bool:
        assert self.log is not None
        try:
            write(self.log)
        except Exception:
            # A slate is shown even if nobody will learn from it.
            logger.exception("the log failed")
            self.metrics.log.labels("failed").inc()
            return False
        self.metrics.logged(self.log.failed, self.log.dropped)
        return True

    async def close(self) -> None:
        """Write and close log and store. What is stuck is left behind after CLOSING seconds."""
        self.desk.close()
        closing = {"bundle": self.swap.close, "store": self._close_store}
        if self.log is not None:
            closing["log"] = self.log.close
        threads = [threading.Thread(target=close, name=part, daemon=True) for part, close in closing.items()]
        ends = time.monotonic() + CLOSING
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                logger.error("the %s is stuck and was not closed", thread.name)

    def _close_store(self) -> None:
        self._records.shutdown(wait=True)  # what was taken is stored
        if self.store is not None:
            self.store.close()
