"""Prometheus metrics of the service. Every worker reports the sum of all workers.

prometheus_client shares the values of several workers through files in the folder PROMETHEUS_MULTIPROC_DIR,
which the `serve` command sets before the workers start.
"""

import os
import re
from functools import partial
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ..checkout import Slate
from .process_metrics import ProcessMetrics

MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
STAGE_BUCKETS_BELOW_1_MS = (0.00005, 0.0001, 0.00025, 0.0005)
MAX_RULE_LABELS = 100  # of a worker: rules come and go, labels stay
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.105, 0.15, 0.25, 0.5, 1.0, 2.5)


class ServiceMetrics:
    """The metrics of one worker. Safe to share between threads."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # creation times would double the page
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry, multiprocess_mode="livesum")
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("sextet_requests", "Answered requests", ("route", "status"))
        self.latency = histogram(
            "sextet_request_seconds", "Arrival to answer", ("route",), buckets=LATENCY_BUCKETS
        )
        self.in_flight = gauge("sextet_requests_in_flight", "Requests being answered")
        self.overload_rejections = counter("sextet_overload_rejections", "Requests refused for lack of time")
        self.slates = counter("sextet_slates", "Slates by the tier that answered", ("tier",))
        self.withheld_slates = counter("sextet_slates_withheld", "Slates that an experiment held back")
        self.slate_cache_hits = counter("sextet_slate_cache_hits", "Slates from the cache of ranked slates")
        self.stage_latency = histogram(
            "sextet_stage_seconds", "Time of each stage", ("stage",),
            buckets=STAGE_BUCKETS_BELOW_1_MS + LATENCY_BUCKETS[:-2],
        )  # fmt: skip
        self.bundle_workers = gauge("sextet_bundle", "Workers that serve a version", ("version",))
        self.unserved_arm_versions = gauge(
            "sextet_arm_version_fallback",
            "Workers in which `current` answers for an arm's version",
            ("version",),
        )
        self.bundle_loads = counter("sextet_bundle_loads", "Versions loaded or refused", ("outcome",))
        self.bundle_degraded = gauge(
            "sextet_bundle_degraded", "Workers in which another version answers for `current`"
        )
        self.reloads = counter("sextet_reloads", "Files read again after SIGHUP", ("file", "outcome"))
        self.open_breakers = gauge("sextet_breaker_open", "Workers with an open circuit breaker", ("stage",))
        self.breaker_trips = counter(
            "sextet_breaker_trips", "Times that the circuit breaker of a stage opened", ("stage",)
        )
        self.store_appends = counter(
            "sextet_store_appends", "Checkouts and clicks written to the store", ("outcome",)
        )
        self.store_impressions = counter(
            "sextet_store_impressions", "Slates written to the store's memory of impressions", ("outcome",)
        )
        self.corrupt_histories = counter("sextet_corrupt_histories", "Damaged histories that were met")
        minimum = partial(Gauge, registry=self.registry, multiprocess_mode="livemin")
        self.store_available = minimum("sextet_store_available", "0: the store's file is gone")
        self.log_writable = minimum("sextet_log_writable", "0: the impression log cannot be written")
        self.feedback = counter(
            "sextet_feedback", "Feedback, by whether the slate showed the item", ("kind", "shown")
        )
        self.log_records = counter("sextet_log_records", "Slates and feedback logged", ("outcome",))
        self.log_write_failures = counter("sextet_log_write_failures", "Failed attempts to write the log")
        self.process = ProcessMetrics(self.registry)
        self._add_live_metrics(counter, gauge)
        self._begin_at_zero()
        self._last_failed = self._last_dropped = 0  # the log's counts at the last record

    def _add_live_metrics(self, counter: partial[Counter], gauge: partial[Gauge]) -> None:
        """The metrics of rules and of the live state."""
        self.rule_slates = counter("sextet_rule_slates", "Slates under a rule of the shop", ("rule",))
        self._counted_rules: set[str] = set()
        # The same in every worker: no sum.
        self.rule_problems = gauge(
            "sextet_rule_problems", "Rules that name something unknown, match no item or cannot be read",
            multiprocess_mode="livemax",
        )  # fmt: skip
        self.live_state_reads = counter(
            "sextet_live_state_reads", "Looks for changes of rules and items", ("outcome",)
        )
        self.live_state_unread = gauge(
            "sextet_live_state_unread", "Workers that have not read the live state since their start"
        )

    def _begin_at_zero(self) -> None:
        """Set each outcome to 0 at first: Prometheus sees no increase in a series that begins with 1."""
        for metric, outcomes in (
            (self.bundle_loads, ("refused", "abandoned")),
            (self.store_appends, ("failed", "dropped")),
            (self.log_records, ("failed", "dropped")),
            (self.live_state_reads, ("failed",)),
            (self.store_impressions, ("failed", "dropped")),
        ):
            for outcome in outcomes:
                metric.labels(outcome)

    def count_slate(self, slate: Slate) -> None:
        """Count a slate and the time of its stages."""
        self.slates.labels(slate.tier).inc()
        if slate.withheld:
            self.withheld_slates.inc()
        for effect in slate.rules:
            self.rule_slates.labels(self._rule_label(effect.rule)).inc()
        if slate.tier == "ranked" and "ranker" not in slate.timings:
            self.slate_cache_hits.inc()
        for stage, milliseconds in slate.timings.items():
            self.stage_latency.labels(stage).observe(milliseconds / 1e3)

    def _rule_label(self, rule: str) -> str:
        """The name of a rule; "other" for rules beyond the first MAX_RULE_LABELS."""
        if len(self._counted_rules) < MAX_RULE_LABELS:
            self._counted_rules.add(rule)
        return rule if rule in self._counted_rules else "other"

    def count_log_record(self, failed: int, dropped: int) -> None:
        """Count a record that the log accepted; `failed` and `dropped` are the log's running totals."""
        self.log_records.labels("logged").inc()
        if (failed, dropped) != (self._last_failed, self._last_dropped):
            self.log_write_failures.inc(failed - self._last_failed)
            self.log_records.labels("dropped").inc(dropped - self._last_dropped)
            self._last_failed, self._last_dropped = failed, dropped

    def exposition(self) -> bytes:
        """The metrics of all workers in Prometheus' text format."""
        self.process.refresh()
        folder = os.environ.get(MULTIPROC_DIR_VARIABLE)
        if folder is None:
            return generate_latest(self.registry)
        for file in Path(folder).glob("gauge_live*.db"):
            # A killed worker leaves its gauges behind.
            if (match := re.search(r"_(\d+)\.db$", file.name)) and not _is_alive(int(match[1])):
                mark_process_dead(int(match[1]), folder)  # type: ignore[no-untyped-call]
        all_workers = CollectorRegistry()
        MultiProcessCollector(all_workers, folder)  # type: ignore[no-untyped-call]
        return generate_latest(all_workers)


def _is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
