"""What the serving benchmark is made of: its shop, its client and its rows."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import large_shop, serving, serving_http
from benchmarks.open_loop import Answer, drive
from serving import Recommender
from serving.golden import read


def test_the_shop_is_what_preparation_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_shop, "USERS", 20)
    folder = large_shop.write(5_000, tmp_path)
    items, orders = (pq.read_table(folder / f"{name}.parquet") for name in ("items", "orders"))
    assert len(items) == len(set(items["item_id"].to_pylist())) == 5_000
    assert set(orders["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    lines = orders.group_by("user_id").aggregate([("item_id", "count")])["item_id_count"].to_numpy()
    assert 120 < lines.mean() < 260
    assert (np.diff(orders["ts"].to_numpy()) >= 0).all()


class Late(BaseHTTPRequestHandler):
    """Answers after 50 ms, one at a time."""

    protocol_version = "HTTP/1.1"
    turn = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.turn:
            time.sleep(0.05)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_waiting_counts_in_an_open_loop() -> None:
    """40 a second where 20 can be answered: the last waits for half of the time that all take."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        bodies = [json.dumps({"number": number}).encode() for number in range(40)]
        answers = drive(server.server_port, "/", bodies, 40)
    finally:
        server.shutdown()
    assert [answer.body["number"] for answer in answers] == list(range(40))
    assert answers[0].taken_ms < 250
    assert max(answer.taken_ms for answer in answers) > 700
    refused = drive(server.server_port + 1, "/", [b"{}"], 10)
    assert refused[0].status == 0


def test_a_row_tells_what_was_answered(version: Path) -> None:
    recommender = Recommender.load(version)
    slates = [recommender.recommend(checkout) for checkout, _ in read(recommender.bundle)]
    row = serving.summary("some", [1.0, 2.0, 3.0, 4.0, 5.0], slates)
    assert (row["p50_ms"], row["six_share"], sum(row["tiers"].values())) == (3.0, 1.0, len(slates))
    items = [{"item_id": str(k)} for k in range(6)]
    answers = [
        Answer(0.0, 5.0, 200, {"items": items, "tier": "ranked"}),
        Answer(0.1, 1.0, 503, None),
        Answer(0.2, 9.0, 200, {"items": items[:5] * 2, "tier": "category"}),
    ]
    memory = serving_http.memory(os.getpid())
    assert memory["rss_mb"] >= memory["pss_mb"] > 50
    told = serving_http.row("some", answers, 10, type("Process", (), {"pid": os.getpid()})())  # type: ignore[arg-type]
    assert told["six_share"] == 0.5
    assert told["statuses"] == {"200": 2, "503": 1}
    assert told["p50_ms"] == 7.0
