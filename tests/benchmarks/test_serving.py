"""The parts of the serving benchmark: its shop, its client, its rows and its page."""

import json
import math
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import large_shop, serving_http, serving_in_process
from benchmarks.open_loop_client import TimedResponse, constant_rate_schedule, run_open_loop
from benchmarks.summaries import memory_mb
from reporting.serving_page import serving_page
from serving import Recommender
from serving.storage.golden_requests import read_golden_requests
from tests.serving.http.services import command


def test_the_shop_is_what_preparation_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_shop, "USERS", 20)
    folder = large_shop.write_shop(5_000, tmp_path)
    items, orders = (pq.read_table(folder / f"{name}.parquet") for name in ("items", "orders"))
    assert len(items) == len(set(items["item_id"].to_pylist())) == 5_000
    assert set(orders["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    lines = orders.group_by("user_id").aggregate([("item_id", "count")])["item_id_count"].to_numpy()
    assert 120 < lines.mean() < 260
    assert (np.diff(orders["ts"].to_numpy()) >= 0).all()


class SlowHandler(BaseHTTPRequestHandler):
    """Answers after 50 ms, one request at a time."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.lock:
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_waiting_counts_in_an_open_loop() -> None:
    """Of 40 requests a second 20 can be answered: the last waits for half of the time that all take."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        bodies = [json.dumps({"number": number}).encode() for number in range(40)]
        responses = run_open_loop(server.server_port, "/", bodies, constant_rate_schedule(40, 1))
    finally:
        server.shutdown()
        server.server_close()
    assert [response.body["number"] for response in responses] == list(range(40))
    assert all(response.latency_ms >= 50 for response in responses)
    assert max(response.latency_ms for response in responses) > 700
    (unanswered,) = run_open_loop(server.server_port, "/", [b"{}"], [0.0])
    assert unanswered.status == 0


def test_a_row_counts_tiers_statuses_and_full_slates(version: Path) -> None:
    recommender = Recommender.load(version)
    slates = [recommender.recommend(checkout) for checkout, _ in read_golden_requests(recommender.bundle)]
    row = serving_in_process.summary_row("a scenario", [1.0, 2.0, 3.0, 4.0, 5.0], slates)
    assert (row["p50_ms"], row["six_share"], sum(row["tiers"].values())) == (3.0, 1.0, len(slates))
    items = [{"item_id": str(k)} for k in range(6)]
    responses = [
        TimedResponse(0.0, 5.0, 200, {"items": items, "tier": "ranked"}),
        TimedResponse(0.1, 1.0, 503, None),
        TimedResponse(0.2, 9.0, 200, {"items": items[:5] * 2, "tier": "category"}),
    ]
    memory = memory_mb(os.getpid())
    assert memory["rss_mb"] >= memory["pss_mb"] > 50
    process: Any = SimpleNamespace(pid=os.getpid())
    row = serving_http.scenario_row("a scenario", responses, process)
    assert row["six_share"] == 0.5
    assert row["statuses"] == {"200": 2, "503": 1}
    assert row["p50_ms"] == 7.0


def test_the_page_shows_every_scenario() -> None:
    figures = {"p50_ms": 4.0, "p95_ms": 20.0, "p99_ms": 90.0, "p999_ms": 110.0, "requests_per_s": 99.0}
    row = figures | {"six_share": 1.0, "rss_mb": 900, "tiers": {"ranked": 3}}
    stages = {"ranker": {"p50_ms": 2.0, "p99_ms": 3.0}, "total": {"p50_ms": 4.0, "p99_ms": 9.0}}
    responses = [
        TimedResponse(0.1, 5.0, 200, {"tier": "ranked"}),
        TimedResponse(0.2, 9.0, 503, None),
        TimedResponse(1.5, 1.0, 503, None),
    ]
    rows: list[dict[str, Any]] = [
        row | {"scenario": "in process", "floor_ms": 2.5, "p50_over_floor": 1.6, "stages": stages},
        row | {"scenario": "HTTP, a rate", "over_time": serving_http.per_second_stats(responses)},
        row | {"scenario": "HTTP, none answered", **dict.fromkeys(figures, math.nan)},
    ]
    page = serving_page(rows, "title", "about")
    assert all(row["scenario"].removeprefix("HTTP, ") in page for row in rows)
    assert "1.60 times the floor" in page
    assert page.count('class="chart wide"') == 4
    assert not re.search(r'="[^"]*nan', page)


@pytest.mark.slow
def test_overload_of_real_processes(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At twice the capacity all are answered; at ten times some may be refused, and no queue grows."""
    monkeypatch.setattr(serving_http, "CALM_SECONDS", 3)
    options = ("--workers", "2", "--threads", "1")
    root = version.parent
    with command(root, *options, module=("tests.serving.resilience.broken", "slow", "serve")) as service:
        capacity = serving_http.measure_capacity(
            service.port, serving_http.request_bodies(root, 20, 3_000, seed=1)
        )
        assert 20 < capacity < 2 / 0.03
        loaded = serving_http.LoadedService(service.port, service.process, root, 20)
        for multiple, seconds in ((2, 6), (10, 3)):
            overload, recovered = serving_http.measure_overload(loaded, capacity, multiple, seconds)
            assert overload["six_share"] == recovered["six_share"] == 1
            assert overload["statuses"].keys() <= ({"200"} if multiple == 2 else {"200", "503"})
            assert overload["tiers"]["ranked"] > 0.3 * capacity * seconds
            assert overload["p50_ms"] < 50
            assert overload["max_in_flight"] < 100
            assert overload["server_on_time_share"] > 0.95
            assert [second["second"] for second in overload["over_time"]] == list(range(6 + seconds))
            assert recovered["tiers"].get("ranked", 0) > 0.8 * sum(recovered["tiers"].values())
            assert recovered["rss_mb"] < overload["rss_mb"] + 20
