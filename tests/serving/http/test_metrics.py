"""The metrics: all documented, and added up over the workers."""

import os
import re
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.http.app import create_app
from serving.http.metrics import ServiceMetrics
from serving.http.process_metrics import process_start_time, resident_memory
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, ROOT, Command, command, serving, until

METRICS_OF_THE_PARENT = {"sextet_worker_restarts_total"}  # of the supervisor, not declared by a worker
METRIC = re.compile(r"`(sextet_\w+)(?:\{([\w,]+)\})?`")


def exposed_metrics() -> dict[str, set[str]]:
    """Name → labels, of every metric that a worker has."""
    registry = ServiceMetrics().registry
    metrics = {}
    for collector in registry._collector_to_names:
        (family,) = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        metrics[name] = set(collector._labelnames)  # type: ignore[attr-defined]
    return metrics


def documented_metrics() -> dict[str, set[str]]:
    """Name → labels, of the table in docs/how_to/watch_the_service.md."""
    page = (ROOT / "docs" / "how_to" / "watch_the_service.md").read_text()
    section = page.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    metrics: dict[str, set[str]] = {}
    for row in section.splitlines():
        if row.startswith("| `sextet_"):
            for name, labels in METRIC.findall(row.split("|")[1]):
                metrics[name] = set(labels.split(",")) - {""}
    return metrics


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    documented = {
        name: labels for name, labels in documented_metrics().items() if name not in METRICS_OF_THE_PARENT
    }
    exposed = {
        name: labels for name, labels in exposed_metrics().items() if name not in METRICS_OF_THE_PARENT
    }
    assert documented == exposed


def test_what_alerts_count_begins_at_0(version: Path, tmp_path: Path) -> None:
    """Prometheus sees no increase in a series that begins with its first event."""
    alerts = (ROOT / "operations" / "monitoring" / "alerts.yml").read_text()
    counted = set(re.findall(r'(?:increase|rate)\((sextet_\w+)\{outcome=~?"([\w|]+)"', alerts))
    assert len(counted) >= 5
    rules = tmp_path / "rules.toml"
    rules.touch()  # reloads count for files that are configured
    with serving(create_app(Settings(version.parent, rules=rules))) as client:
        text = client.get("/metrics").text
    for name, outcomes in counted:
        for outcome in outcomes.split("|"):
            assert re.search(rf'^{name}\{{.*outcome="{outcome}"\}} 0\.0$', text, re.MULTILINE), (
                name,
                outcome,
            )


def test_values_of_one_process(version: Path) -> None:
    with serving(create_app(Settings(version.parent, deadline_ms=60_000, threads=3))) as client:
        client.post("/v1/recommendations", {"user_id": "u001", **BASKET})
        first = client.number("sextet_worker_cpu_seconds_total")
        started = time.process_time()
        while time.process_time() < started + 0.05:  # use some
            pass
        assert client.number("sextet_worker_cpu_seconds_total") >= first + 0.05
        assert client.number("sextet_model_threads") == 3
        assert client.number('sextet_cache_entries{cache="slates"}') == 1
        assert client.number("sextet_worker_start_time_seconds") == pytest.approx(process_start_time(), abs=1)
        assert (
            0 < client.number("sextet_worker_anonymous_bytes") < client.number("sextet_worker_resident_bytes")
        )
        assert client.number("sextet_worker_open_fds") == pytest.approx(
            len(os.listdir("/proc/self/fd")), abs=10
        )
        manifest = client.get("/v1/bundle").json()
        data_age = time.time() - manifest["data"]["window"]["end"]
        assert client.number("sextet_bundle_data_age_seconds") == pytest.approx(data_age, abs=60)
        assert 0 < client.number("sextet_bundle_age_seconds") < 86_400  # of this session
        assert 'le="5e-05"' in client.get("/metrics").text
        (build,) = re.findall(r"sextet_build_info\{(.+)\} 1", client.get("/metrics").text)
        for name in ("version", "python", "torch", "faiss"):
            assert f'{name}="' in build
        assert 'torch=""' not in build


def test_memory_and_start_are_those_of_the_process() -> None:
    anonymous, of_files = resident_memory()
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert anonymous + of_files == pytest.approx(resident_pages * os.sysconf("SC_PAGE_SIZE"), rel=0.1)
    assert time.time() - 86_400 < process_start_time() < time.time()


def scrape(service: Command) -> dict[str, float]:
    """Metric → its sum over all labels."""
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(service.ask("GET", "/metrics")[1].decode()):
        for sample in family.samples:
            values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


@pytest.mark.slow
def test_workers_are_added_up(version: Path) -> None:
    """CPU seconds never fall, also when a worker ends; memory is that of the workers that live."""
    with command(version.parent, "--workers", "2", "--deadline-ms", "10000") as service:
        until(lambda: scrape(service)["sextet_model_threads"] == 2)
        children = (
            Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
        )
        workers = [int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]
        pages = sum(int(Path(f"/proc/{worker}/statm").read_text().split()[1]) for worker in workers)
        resident = pages * os.sysconf("SC_PAGE_SIZE")
        assert scrape(service)["sextet_worker_resident_bytes"] == pytest.approx(resident, rel=0.2)
        before = scrape(service)
        os.kill(workers[0], 9)
        lowest = before["sextet_worker_cpu_seconds_total"]

        def is_replaced() -> bool:
            nonlocal lowest
            try:
                values = scrape(service)
            except ConnectionResetError:
                return False
            assert values["sextet_worker_cpu_seconds_total"] >= lowest
            lowest = values["sextet_worker_cpu_seconds_total"]
            return values["sextet_worker_start_time_seconds"] > before["sextet_worker_start_time_seconds"] + 1

        until(is_replaced)
        assert scrape(service)["sextet_build_info"] == 1
