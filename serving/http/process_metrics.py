"""Metrics of the worker processes, their bundle and caches, updated every few seconds and at scrapes."""

import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from ..recommender import Recommender

REFRESH_INTERVAL_S = 5.0
KIB = 1024
HAS_PROC = Path("/proc/self/status").exists()  # Linux
PACKAGES = ("sextet", "torch", "faiss-cpu")


class ProcessMetrics:
    """Sets the metrics of one worker. Across workers, a metric is summed or compared according to its kind.

    Memory, open files and start time come from /proc; without /proc they are 0.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, help: str, mode: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, help, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self.resident = gauge("sextet_worker_resident_bytes", "Resident memory of all workers", "livesum")
        self.anonymous = gauge(
            "sextet_worker_anonymous_bytes", "Resident memory that no file backs, of all workers", "livesum"
        )
        self.cpu_seconds = Counter(
            "sextet_worker_cpu_seconds", "CPU time of all workers, ended ones included", registry=registry
        )
        self.open_files = gauge("sextet_worker_open_fds", "Open file descriptors of all workers", "livesum")
        self.start_time = gauge(
            "sextet_worker_start_time_seconds", "Start of the newest worker, Unix seconds", "livemax"
        )
        self.threads = gauge("sextet_model_threads", "Threads of the models, of all workers", "livesum")
        self.cache_entries = gauge(
            "sextet_cache_entries", "Entries of the caches of all workers", "livesum", ("cache",)
        )
        self.bundle_age = gauge(
            "sextet_bundle_age_seconds", "Seconds since the oldest serving bundle was exported", "livemax"
        )
        self.data_age = gauge(
            "sextet_bundle_data_age_seconds", "Seconds since the end of the oldest bundle's data", "livemax"
        )
        build_info = gauge(
            "sextet_build_info",
            "1, with versions as labels",
            "livemax",
            ("version", "python", "torch", "faiss"),
        )
        versions = [installed_version(package) for package in PACKAGES]
        build_info.labels(versions[0], platform.python_version(), *versions[1:]).set(1)
        self._recommender: Callable[[], Recommender | None] = lambda: None
        self._counted_cpu = 0.0
        self._lock = threading.Lock()  # the thread and a scrape
        self._stop = threading.Event()

    def start(self, recommender: Callable[[], Recommender | None], threads: int) -> None:
        """Refresh every REFRESH_INTERVAL_S.

        Args:
            recommender: returns the active recommender; None before a bundle is loaded.
            threads: number of threads of the models.
        """
        self._recommender = recommender
        self.threads.set(threads)
        if HAS_PROC:
            self.start_time.set(process_start_time())
        threading.Thread(target=self._refresh_until_stopped, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop refreshing."""
        self._stop.set()

    def refresh(self) -> None:
        """Update all metrics now."""
        with self._lock:
            if HAS_PROC:
                anonymous, of_files = resident_memory()
                self.resident.set(anonymous + of_files)
                self.anonymous.set(anonymous)
                self.open_files.set(len(os.listdir("/proc/self/fd")))
            cpu_time = time.process_time()
            self.cpu_seconds.inc(cpu_time - self._counted_cpu)
            self._counted_cpu = cpu_time
            recommender = self._recommender()
            if recommender is not None:
                self._refresh_bundle(recommender)

    def _refresh_bundle(self, recommender: Recommender) -> None:
        manifest, now = recommender.bundle.manifest, time.time()
        self.bundle_age.set(now - datetime.fromisoformat(manifest["created"]).timestamp())
        self.data_age.set(now - manifest["data"]["window"]["end"])
        for name, cache in (
            ("slates", recommender.slate_cache),
            ("query_vectors", recommender.query_vector_cache),
            ("last_slates", recommender.last_slates),
        ):
            self.cache_entries.labels(name).set(len(cache))

    def _refresh_until_stopped(self) -> None:
        while not self._stop.is_set():
            self.refresh()
            self._stop.wait(REFRESH_INTERVAL_S)


def resident_memory() -> tuple[int, int]:
    """Bytes of this process without a file behind them, and bytes of mapped files, which workers share."""
    kib = {"RssAnon": 0, "RssFile": 0, "RssShmem": 0}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in kib:
            kib[name] = int(value.split()[0])
    return KIB * kib["RssAnon"], KIB * (kib["RssFile"] + kib["RssShmem"])


def process_start_time() -> float:
    """Unix seconds at which this process was started."""
    # The name of the program may hold blanks and ends with a bracket; field 22 counts ticks since boot.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def installed_version(package: str) -> str:
    """The version of a distribution; "" if it is not installed, such as sextet in a clone."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
