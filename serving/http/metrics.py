"""What Prometheus reads of a service. With several workers any of them tells of all.

prometheus_client then shares the numbers through files of the folder in PROMETHEUS_MULTIPROC_DIR, which
serving/http/command.py sets before the workers start.
"""

import os
import re
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

MULTIPROC_DIR_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.105, 0.15, 0.25, 0.5, 1.0, 2.5)


class ServiceMetrics:
    """The numbers of one worker. Safe to share between threads."""

    def __init__(self) -> None:
        disable_created_metrics()  # when each number began doubles the page and tells nothing
        self.registry = own = CollectorRegistry()
        self.requests = Counter("sextet_requests", "Answered requests", ("route", "status"), registry=own)
        self.latency = Histogram(
            "sextet_request_seconds", "Arrival to answer", ("route",), buckets=LATENCY_BUCKETS, registry=own
        )
        self.in_flight = Gauge(
            "sextet_requests_in_flight", "Requests being answered", registry=own, multiprocess_mode="livesum"
        )
        self.overload_rejections = Counter(
            "sextet_shed", "Recommendations refused for lack of time", registry=own
        )
        self.slates = Counter("sextet_slates", "Slates by the tier that answered", ("tier",), registry=own)
        self.slate_cache_hits = Counter(
            "sextet_slates_remembered", "Slates that were ranked before", registry=own
        )
        self.stage_latency = Histogram(
            "sextet_stage_seconds",
            "Time of each stage",
            ("stage",),
            buckets=LATENCY_BUCKETS[:-2],
            registry=own,
        )
        self.bundle_workers = Gauge(
            "sextet_bundle", "Workers that serve a version", ("version",), registry=own,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.unserved_arm_versions = Gauge(
            "sextet_arm_version_unserved", "Workers in which `current` answers for a version that arms name",
            ("version",), registry=own, multiprocess_mode="livesum",
        )  # fmt: skip
        self.bundle_loads = Counter(
            "sextet_bundle_loads", "Versions loaded or refused", ("outcome",), registry=own
        )
        self.open_breakers = Gauge(
            "sextet_breaker_open", "Workers in which a part failed and rests", ("part",), registry=own,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.breaker_trips = Counter(
            "sextet_breaker_trips", "How often a part began to rest", ("part",), registry=own
        )
        self.store_appends = Counter(
            "sextet_store_appends", "Checkouts, clicks recorded", ("outcome",), registry=own
        )
        self.log_records = Counter(
            "sextet_log_records", "Slates and feedback logged", ("outcome",), registry=own
        )
        self.log_write_failures = Counter(
            "sextet_log_failures", "Failed attempts to write the log", registry=own
        )
        self._last_failed = self._last_dropped = 0  # what the log had counted when it was asked last

    def count_slate(self, slate: Slate) -> None:
        """Count a slate and the time of its stages."""
        self.slates.labels(slate.tier).inc()
        if slate.tier == "ranked" and "ranker" not in slate.timings:
            self.slate_cache_hits.inc()
        for stage, milliseconds in slate.timings.items():
            self.stage_latency.labels(stage).observe(milliseconds / 1e3)

    def count_log_record(self, failed: int, dropped: int) -> None:
        """Count a record that the log took, and what by now `failed` to be written or was `dropped`."""
        self.log_records.labels("logged").inc()
        if (failed, dropped) != (self._last_failed, self._last_dropped):
            self.log_write_failures.inc(failed - self._last_failed)
            self.log_records.labels("dropped").inc(dropped - self._last_dropped)
            self._last_failed, self._last_dropped = failed, dropped

    def exposition(self) -> bytes:
        """The numbers of all workers, as Prometheus reads them."""
        folder = os.environ.get(MULTIPROC_DIR_VARIABLE)
        if folder is None:
            return generate_latest(self.registry)
        for file in Path(folder).glob("gauge_live*.db"):
            # One that was killed could not say goodbye, and is in flight no more.
            if (named := re.search(r"_(\d+)\.db$", file.name)) and not _is_alive(int(named[1])):
                mark_process_dead(int(named[1]), folder)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone, folder)
        return generate_latest(everyone)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
