"""The service of one worker. The application starts and closes its recommender, store, log and metrics."""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from starlette.responses import Response

from ..bundle_watcher import BundleWatcher
from ..checkout import Checkout, Slate
from ..events.impression_log import ImpressionLog
from ..experiments.assignment import Assignment, Experiments, assign_user, is_withheld
from ..experiments.declaration import read_experiments
from ..live_items.changes import TOPIC as ITEMS_TOPIC
from ..pipeline.messages import read_messages
from ..pipeline.rules.document import TOPIC as RULES_TOPIC
from ..recommender import Recommender
from ..resilience.admission import AdmissionController, Overloaded
from ..resilience.deadline import error_message
from ..stores.base import Store
from ..stores.uri import live_state_uri, open_live_state
from .backends import open_service_store
from .body import JSON_MEDIA_TYPE
from .forgetting import ForgottenUsers
from .health import HealthMonitor
from .impression_writer import ImpressionWriter
from .item_updates import ItemUpdates
from .keys import ApiKeys
from .live_updates import LiveUpdates
from .metrics import ServiceMetrics
from .middleware import logger
from .problems import unavailable_error
from .recording import EventRecorder
from .request_context import current_request
from .rule_book import RuleBook
from .schema import (
    RecommendationIn,
    parse_body,
    reject_unknown_categories,
    slate_json,
    to_checkout,
)
from .settings import Settings
from .tracing import RequestTracer

CLOSE_TIMEOUT = 5.0  # seconds for log and store to write their buffers
RESPONSE_MARGIN_MS = 1.0  # ms to turn a slate into JSON and hand it to the event loop


class SlateResponse(NamedTuple):
    """A slate, the checkout that it answers, and its JSON."""

    checkout: Checkout
    slate: Slate
    body: bytes
    assignment: Assignment


class Service:
    """The recommender, store, log and metrics of a process."""

    def __init__(
        self, settings: Settings, store: Store | None = None, log: ImpressionLog | None = None
    ) -> None:
        self.settings = settings
        self.metrics = ServiceMetrics()
        self.keys = ApiKeys(settings.api_key_file, settings.admin_key_file)
        self.tracer = (
            None
            if settings.trace_endpoint is None
            else RequestTracer(settings.trace_endpoint, settings.trace_sample)
        )
        self.log = ImpressionLog(settings.log) if log is None and settings.log is not None else log
        # An exported store comes with its bundle and is opened with each version.
        self.store = (
            open_service_store(settings.store, settings.bundle) if store is None and settings.store else store
        )
        self.experiments = None if settings.experiments is None else read_experiments(settings.experiments)
        self.admission = AdmissionController(settings.threads, settings.queue_limit, settings.deadline_ms)
        arm_versions = () if self.experiments is None else self.experiments.versions
        self.bundle_watcher = BundleWatcher(
            settings.bundle, self._load_recommender, settings.poll_seconds, self._on_bundle_load,
            arm_versions, settings.load_timeout,
        )  # fmt: skip
        self.bundle_watcher.on_poll = self._on_bundle_poll
        self.is_draining = False  # a stop has begun: it answers, and is not ready
        # By the name in logs and metrics. For a bad file each raises OSError or ValueError and keeps the old.
        self.reloads: dict[str, Callable[[], None]] = {}
        if settings.api_key_file is not None or settings.admin_key_file is not None:
            self.reloads["keys"] = self.keys.reload
        if settings.experiments is not None:
            self.reloads["experiments"] = partial(self._reload_experiments, settings.experiments)
        self._arm_versions: set[str] = set()  # that the metrics have
        self._count_unserved_arms()
        live_uri = live_state_uri(settings.live, settings.store, settings.bundle)
        self.live = (
            None
            if live_uri is None
            else LiveUpdates(open_live_state(live_uri, create=live_uri != settings.store), self.metrics)
        )
        self.rules = RuleBook(settings.rules, settings.poll_seconds)
        self.rules.on_problems = self.metrics.rule_problems.set
        if settings.rules is not None:
            self.reloads["rules"] = self.rules.reload
        for name in self.reloads:
            self.metrics.reloads.labels(name, "refused")  # 0 from the start, so that the first one is a rise
        self.item_updates = ItemUpdates()
        if self.live is not None:
            self.live.subscribe(ITEMS_TOPIC, self.item_updates.apply)
        self.recorder = EventRecorder(
            self.store, self.log, self.metrics, self.bundle_watcher, settings.queue_limit,
            settings.impressions == "viewed",
        )  # fmt: skip
        self.impression_writer = ImpressionWriter(self.store, self.metrics, settings.queue_limit)
        self.forgotten_users = (
            None
            if self.live is None
            else ForgottenUsers(settings, self.live, self.bundle_watcher, self.log, self.impression_writer)
        )
        self.health = HealthMonitor(self.store, self.log, self.metrics)
        self._current_version: str | None = None

    def start(self) -> None:
        """Start the threads that watch the live state, the bundle, store, log and process metrics."""
        self.health.start()
        if self.live is not None and self.forgotten_users is not None:
            self.live.subscribe(RULES_TOPIC, self.rules.apply)
            self.forgotten_users.start()
            self.live.start()  # before a bundle is loaded: its first answer has the live state
        self.rules.start()
        self.bundle_watcher.start()
        self.metrics.process.start(lambda: self.bundle_watcher.recommender, self.settings.threads)

    def reload(self) -> list[str]:
        """Read the files of `reloads` again.

        Returns the reasons for refused files. Requests are answered meanwhile. The old content of a refused
        file stays in force.
        """
        refusals = []
        for name, read in self.reloads.items():
            try:
                read()
            except (OSError, ValueError) as error:
                refusals.append(f"{name} are not reloaded, the present ones stay: {error_message(error)}")
                logger.error(refusals[-1])
                self.metrics.reloads.labels(name, "refused").inc()
            else:
                logger.info("%s are reloaded", name)
                self.metrics.reloads.labels(name, "reloaded").inc()
        return refusals

    def _reload_experiments(self, file: Path) -> None:
        experiments = read_experiments(file)
        self.experiments = experiments
        self.bundle_watcher.set_versions(experiments.versions)

    def _load_recommender(self, folder: Path) -> Recommender:
        store = self.store if self.store is not None else open_service_store(None, self.settings.bundle)
        recommender = Recommender.load(folder, store, self.settings.trust)
        recommender.exploration_rate = self.settings.explore
        recommender.viewed_impressions_only = self.settings.impressions == "viewed"
        recommender.corrupt_histories.on_corrupt = self.metrics.corrupt_histories.inc
        self.item_updates.attach(recommender)
        if self.settings.messages is not None:
            recommender.slate_builder.reason_writer.messages = read_messages(self.settings.messages)
        self.rules.attach(recommender)
        return recommender

    def _on_bundle_poll(self) -> None:
        self.metrics.bundle_degraded.set(self.bundle_watcher.is_degraded)
        self._count_unserved_arms()

    def _count_unserved_arms(self) -> None:
        named = self.bundle_watcher.versions
        for version in self._arm_versions.difference(named):
            self.metrics.unserved_arm_versions.labels(version).set(0)
        self._arm_versions = set(named)
        for version in named:
            served = version in self.bundle_watcher.recommenders
            self.metrics.unserved_arm_versions.labels(version).set(not served)

    def _on_bundle_load(self, outcome: str) -> None:
        self.metrics.bundle_loads.labels(outcome).inc()
        if outcome in ("refused", "abandoned"):
            return
        self._count_unserved_arms()
        serving = self.bundle_watcher.recommenders
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
        """Whether the stage's circuit breaker is open in any loaded version."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        return any(recommender.stage_stats.breakers[stage].is_open for recommender in serving)

    def problem(self) -> str:
        """The problems of the service, for /readyz; "" if there are none."""
        live_reason = "" if self.live is None else self.live.reason
        return "; ".join(filter(None, (self.bundle_watcher.reason, live_reason, self.rules.file_problem)))

    def recommender(self) -> Recommender:
        """The recommender of `current`. Raises ProblemError before the first version is loaded."""
        recommender = self.bundle_watcher.recommender
        if recommender is None:
            raise unavailable_error("no bundle is loaded yet: /readyz says why")
        return recommender

    async def recommend(self, body: bytes, arrival_time: float) -> Response:
        """The slate of a checkout: ranked, or popular items if the models would be too late."""
        recommender, experiments = self.recommender(), self.experiments

        def rank(deadline: float) -> SlateResponse:
            queue_ms = 1e3 * (time.perf_counter() - arrival_time)
            checkout = to_checkout(parse_body(RecommendationIn, body))
            reject_unknown_categories(recommender, checkout)
            remaining_ms = 1e3 * (deadline - time.perf_counter()) - RESPONSE_MARGIN_MS
            arms = _assign(experiments, checkout)
            slate = self._recommender_for(arms, recommender).recommend(
                checkout, remaining_ms, arms.revenue_weight, exploration_rate=arms.explore
            )
            slate = replace(slate, timings={"queue": queue_ms, **slate.timings})
            return _slate_response(experiments, checkout, slate, arms)

        def fall_back(reason: str) -> SlateResponse:
            request = parse_body(RecommendationIn, body)
            request.history = None  # a fallback does not read it, and parsing it costs most
            checkout = to_checkout(request)
            reject_unknown_categories(recommender, checkout)
            arms = _assign(experiments, checkout)
            slate = self._recommender_for(arms, recommender).fallback_slate(checkout, reason, arrival_time)
            return _slate_response(experiments, checkout, slate, arms)

        try:
            response = await self.admission.execute(rank, fall_back, arrival_time)
        except Overloaded as error:
            self.metrics.overload_rejections.inc()
            raise unavailable_error(f"overloaded: {error}") from None
        self.metrics.count_slate(response.slate)
        if (request := current_request.get()) is not None:
            request.slate = response.slate
        if self.log is not None:
            checkout, slate, arms = response.checkout, response.slate, response.assignment
            arm = arms.arms or ("exploring" if recommender.exploration_rate else "")
            self.recorder.write_log(lambda log: log.log_slate(checkout, slate, arm, arms.withhold))
        if self._has_frequency_cap():
            self.impression_writer.write(response.checkout, response.slate)
        return Response(response.body, media_type=JSON_MEDIA_TYPE)

    def _has_frequency_cap(self) -> bool:
        """Whether a loaded bundle has a frequency cap and so reads the impressions of users."""
        serving = tuple(self.bundle_watcher.recommenders.values())
        return any(recommender.policy.frequency_cap is not None for recommender in serving)

    def _recommender_for(self, arms: Assignment, current: Recommender) -> Recommender:
        """The recommender of the version that an arm names, else of `current`."""
        if arms.version is None:
            return current
        return self.bundle_watcher.recommenders.get(arms.version, current)

    def arm_versions(self) -> dict[str, str]:
        """Returns version that an arm names → the version that answers for it."""
        current, serving = self.recommender(), self.bundle_watcher.recommenders
        return {name: serving.get(name, current).bundle.version for name in self.bundle_watcher.versions}

    async def close(self) -> None:
        """Write and close log and store. A part that takes longer than CLOSE_TIMEOUT is abandoned."""
        self.admission.close()
        self.metrics.process.close()
        self.health.close()
        closing = {"bundle": self.bundle_watcher.close, "rules": self.rules.close, "store": self._close_store}
        if self.live is not None and self.forgotten_users is not None:
            closing["live state"] = self.live.close
            closing["forgotten users"] = self.forgotten_users.close
        if self.log is not None:
            closing["log"] = self.log.close
        if self.tracer is not None:
            closing["tracer"] = self.tracer.close
        threads = [threading.Thread(target=close, name=part, daemon=True) for part, close in closing.items()]
        close_deadline = time.monotonic() + CLOSE_TIMEOUT
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join, max(0.0, close_deadline - time.monotonic()))
            if thread.is_alive():
                logger.error("the %s was not closed within %g s", thread.name, CLOSE_TIMEOUT)

    def _close_store(self) -> None:
        self.recorder.close()
        self.impression_writer.close()
        if self.store is not None:
            self.store.close()


def _assign(experiments: Experiments | None, checkout: Checkout) -> Assignment:
    """The arms of the checkout's user; none without experiments."""
    return Assignment() if experiments is None else assign_user(experiments, checkout.user_id)


def _slate_response(
    experiments: Experiments | None, checkout: Checkout, slate: Slate, arms: Assignment
) -> SlateResponse:
    """The answer with a slate, which an experiment may withhold."""
    checkout_id = checkout.order_id or slate.request_id
    if experiments is not None and is_withheld(experiments, arms, checkout_id):
        slate = replace(slate, withheld=True)
    return SlateResponse(checkout, slate, slate_json(slate), arms)
