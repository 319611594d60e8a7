"""Alert rules and the dashboard, read by Prometheus' own tools and by a Prometheus that scrapes a service."""

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documentation.blocks import tracked_pages
from tests.serving.http.services import BASKET, ROOT, Command, command, until
from tests.serving.http.test_metrics import METRICS_OF_THE_PARENT, exposed_metrics

RULES = ROOT / "operations" / "monitoring" / "alerts.yml"
UNIT_TESTS = Path(__file__).with_name("alerts_test.yml")
DASHBOARD = ROOT / "deploy" / "grafana" / "sextet.json"
GRID_COLUMNS = 24

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="apt install prometheus")


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return content


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]


@needs_promtool
@pytest.mark.parametrize("arguments", [("check", RULES), ("test", UNIT_TESTS)], ids=["check", "test"])
def test_promtool_accepts_the_rules(arguments: tuple[str, Path]) -> None:
    verb, file = arguments
    done = subprocess.run(["promtool", verb, "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_in_a_unit_test_and_is_documented() -> None:
    tests = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    fired = {
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    }
    names = {rule["alert"] for rule in alert_rules()}
    assert fired == names
    pages = [page.read_text() for page in tracked_pages()]
    assert any(all(name in page for name in names) for page in pages)  # one page has all of them


def test_the_dashboard_is_whole() -> None:
    """Panels have their own ids and places, and read metrics and labels that a worker exposes."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < GRID_COLUMNS
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
    metrics = exposed_metrics()
    for query in dashboard_queries():
        for name, selectors in re.findall(r"(sextet_\w+)\{([^}]*)\}", query):
            known = metrics.get(name, metrics.get(re.sub(r"_(bucket|sum|count)$", "", name)))
            if known is None:
                assert name in METRICS_OF_THE_PARENT, name
                continue
            labels = set(re.findall(r"(\w+)\s*[=!]", selectors)) - {"instance"}
            assert labels <= known


class Prometheus:
    """A Prometheus that scrapes a service every second."""

    def __init__(self, folder: Path, port_of_service: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "sextet", "static_configs": [{"targets": [f"127.0.0.1:{port_of_service}"]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "prometheus.log").open("w"),
        )
        until(self.is_ready, 60)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "prometheus ended"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def result(self, query: str) -> list[Any]:
        """The series of a query. An error of Prometheus is an AssertionError."""
        series: list[Any] = self.get("query", query=query)["result"]
        return series


@contextmanager
def load(service: Command) -> Iterator[None]:
    """Requests of every kind, ten a second."""
    ended = threading.Event()

    def send() -> None:
        n = 0
        while not ended.is_set():
            n += 1
            order = {"user_id": f"u{n % 30:03}", **BASKET, "order_id": f"o{n}"}
            status, body = service.ask("POST", "/v1/recommendations", order)
            if status == 200:
                slate = json.loads(body)
                click = {
                    "kind": "click",
                    "request_id": slate["request_id"],
                    "item_id": slate["items"][0]["item_id"],
                    "user_id": order["user_id"],
                }
                service.ask("POST", "/v1/feedback", click)
            service.ask("POST", "/v1/checkouts", order)
            service.ask("POST", "/v1/recommendations", {"basket": 1})
            ended.wait(0.1)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="apt install prometheus")
def test_a_prometheus_answers_every_query(version: Path, tmp_path: Path) -> None:
    store, log = tmp_path / "store.db", tmp_path / "log"
    options = ("--workers", "2", "--store", str(store), "--log", str(log), "--deadline-ms", "10000")
    with command(version.parent, *options) as service, load(service):
        prometheus = Prometheus(tmp_path, service.port)
        try:
            until(lambda: prometheus.result("sextet_build_info"), 60)
            until(lambda: prometheus.result("rate(sextet_slates_total[1m]) > 0"), 60)
            until(
                lambda: prometheus.result('rate(sextet_store_appends_total{outcome="recorded"}[1m]) > 0'), 60
            )
            time.sleep(3)  # a few scrapes more
            for query in dashboard_queries():
                asked = query.replace("$__rate_interval", "1m").replace("$instance", ".*")
                assert prometheus.result(asked), f"no data: {query}"
            for rule in alert_rules():
                prometheus.result(rule["expr"])
            groups = prometheus.get("rules")["groups"]
            loaded = [rule for group in groups for rule in group["rules"]]
            assert len(loaded) == len(alert_rules())
            assert [rule["name"] for rule in loaded if rule["health"] == "err"] == []
        finally:
            prometheus.process.terminate()
            prometheus.process.wait(30)
