"""The impression log on real files: every slate is in them, and no disk fails or delays an answer."""

import logging
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from serving import ImpressionLog
from serving.events.impression_log import SCHEMA
from serving.events.journal import Journal
from tests.serving.events.logs import TS, checkout, forked, logged, requests, slate, wait_for


def test_what_is_logged_is_read_back(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path / "shop" / "events")
    log.log_slate(checkout(), slate("r1"), arm="b")
    log.log_slate(checkout(user_id=None, order_id=None), slate("r2", items=1))
    log.log_slate(checkout(), slate("empty", items=0))
    log.log_feedback("click", "r1", "i3", TS + 60)
    log.log_feedback("purchase", None, "i3", TS + 90, user_id="u1", value=7.5)
    before = int(time.time())
    log.log_slate(checkout(ts=None), slate("r3", items=1))
    log.log_feedback("cart", "r3", "i0")
    log.close()
    assert (log.written_count, log.dropped_count, log.write_failure_count) == (7, 0, 0)
    assert not list((tmp_path / "shop" / "events").glob("*.journal"))
    rows = logged(tmp_path / "shop" / "events")
    nothing = dict.fromkeys(SCHEMA.names)
    impression = {
        "tier": "ranked", "bundle_version": "v7", "sources": ["ann", "buy_again"], "propensity": 0.5,
        "expected_value": 1.5, "kind": "impression", "ts": TS, "latency_ms": 1.0,
        "withhold": 0.0,
    }  # fmt: skip
    for k in range(6):
        assert rows[k] == nothing | impression | {
            "request_id": "r1", "user_id": "u1", "order_id": "o1", "item_id": f"i{k}", "position": k + 1,
            "p_click": pytest.approx(0.5 / (k + 1)), "p_purchase": pytest.approx(0.25 / (k + 1)), "arm": "b",
        }  # fmt: skip
    guest = {
        "request_id": "r2",
        "item_id": "i0",
        "position": 1,
        "arm": "",
        "p_click": 0.5,
        "p_purchase": 0.25,
    }
    assert rows[6] == nothing | impression | guest
    click = {"request_id": "r1", "item_id": "i3", "ts": TS + 60, "kind": "click"}
    assert rows[7] == nothing | click
    bought = {"user_id": "u1", "item_id": "i3", "ts": TS + 90, "kind": "purchase", "value": 7.5}
    assert rows[8] == nothing | bought
    assert [row["kind"] for row in rows[9:]] == ["impression", "cart"]
    assert all(before <= row["ts"] <= time.time() for row in rows[9:])


def test_further_predictions_and_kinds_are_logged(tmp_path: Path) -> None:
    """Predictions that have a column of their own are not in the map."""
    shown = slate("r1", items=2)
    predictions = {"click": 0.5, "purchase": 0.25, "value": 6.0, "return": 0.125, "units": 2.0}
    first = replace(shown.items[0], predictions=predictions)
    log = ImpressionLog(tmp_path)
    log.log_slate(checkout(), replace(shown, items=(first, shown.items[1])))
    log.log_feedback("wishlist", "r1", "i0", TS + 1)
    log.close()
    rows = logged(tmp_path)
    assert rows[0]["predictions"] == [("return", 0.125), ("units", 2.0)]
    assert rows[1]["predictions"] is None
    assert (rows[2]["kind"], rows[2]["predictions"]) == ("wishlist", None)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a click", "r", "i", TS), "Feedback.kind is 'a click'"),
        (("impression", "r", "i", TS), "Feedback.kind is 'impression'"),
        (("", "r", "i", TS), "Feedback.kind is ''"),
        (("click", None, "i", TS), "one of them must be given"),
        (("click", "", "i", TS), "Feedback.request_id is ''"),
        (("click", "r", 5, TS), "Feedback.item_id is 5"),
        (("click", "r", "i", 1e9), "Feedback.ts"),
        (("click", "r", "i", TS * 1000), "not milliseconds"),
        (("click", None, "i", TS, ""), "Feedback.user_id is ''"),
        (("purchase", "r", "i", TS, None, -1), "it must be 0 or more"),
        (("purchase", "r", "i", TS, None, float("nan")), "Feedback.value is nan"),
    ],
)
def test_invalid_feedback_and_options_are_refused(tmp_path: Path, arguments: tuple, reason: str) -> None:
    log = ImpressionLog(tmp_path)
    with pytest.raises(ValueError, match=reason):
        log.log_feedback(*arguments)
    log.close()
    assert not logged(tmp_path)
    for options in (
        {"rotate_rows": 0},
        {"rotate_seconds": -1.0},
        {"capacity": 0},
        {"capacity": float("nan")},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} is .*above 0"):
            ImpressionLog(tmp_path, **options)


def test_files_come_by_rows_and_by_age(tmp_path: Path, quick: None) -> None:
    log = ImpressionLog(tmp_path / "rows", rotate_rows=60)
    old = ImpressionLog(tmp_path / "age", rotate_seconds=0.2)
    for k in range(100):
        log.log_slate(checkout(), slate(f"{k:03d}"))
        time.sleep(0.002)
    old.log_slate(checkout(), slate("r"))
    wait_for(lambda: requests(tmp_path / "age") == ["r"])
    wait_for(lambda: len(list((tmp_path / "rows").glob("*.parquet"))) >= 3)
    log.close()
    old.close()
    assert requests(tmp_path / "rows") == [f"{k:03d}" for k in range(100)]
    assert len(list((tmp_path / "age").iterdir())) == 1
    sizes = [pq.read_metadata(file).num_rows for file in sorted((tmp_path / "rows").iterdir())]
    assert sum(size >= 60 for size in sizes) >= len(sizes) - 1, "only the last file may be smaller"


def test_an_orderly_stop_loses_nothing(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)

    def serve(worker: int) -> None:
        for k in range(300):
            log.log_slate(checkout(), slate(f"{worker}-{k:04d}"))

    threads = [threading.Thread(target=serve, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert requests(tmp_path) == [f"{w}-{k:04d}" for w in range(4) for k in range(300)]
    assert (log.written_count, log.dropped_count) == (1200, 0)
    log.close()
    log.log_slate(checkout(), slate("too late"))
    assert (log.written_count, log.dropped_count) == (1200, 1)


def test_a_signal_may_close_the_log_in_the_middle_of_a_call(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.log_slate(checkout(), slate("r"))

    def handler() -> None:
        with log._lock:
            log.close()

    thread = threading.Thread(target=handler, daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    assert requests(tmp_path) == ["r"]


def test_the_end_of_the_interpreter_is_an_orderly_stop(tmp_path: Path) -> None:
    program = f"""
from serving import Checkout, ImpressionLog
from tests.serving.events.logs import slate
log = ImpressionLog({str(tmp_path)!r})
log.log_slate(Checkout("u1", []), slate("r"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert requests(tmp_path) == ["r"]


def test_a_full_disk_fails_and_delays_nothing(
    small_disk: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    (small_disk / "other").write_bytes(bytes(900_000))
    log = ImpressionLog(small_disk / "events", capacity=500)
    seconds = []
    for k in range(1500):
        record = slate(f"{k:04d}")
        started = time.perf_counter()
        log.log_slate(checkout(), record)
        seconds.append(time.perf_counter() - started)
        if k % 10 == 0:
            time.sleep(0.002)
    wait_for(lambda: log.write_failure_count > 3)
    assert sorted(seconds)[len(seconds) // 2] < 1e-3
    assert 0 < log.written_count < 1000
    assert log.dropped_count > 0
    warnings = [record.message for record in caplog.records if record.name == "serving.events.impression_log"]
    assert len(warnings) == 1, "once, not at every try"
    assert "No space left on device" in warnings[0]
    written = log.written_count
    (small_disk / "other").unlink()  # there is space again for the records that wait
    wait_for(lambda: log.written_count >= written + 500)
    log.close()
    assert log.written_count + log.dropped_count == 1500
    logged_requests = requests(small_disk / "events")
    assert len(logged_requests) == log.written_count
    assert logged_requests[:written] == [f"{k:04d}" for k in range(written)]


def test_a_limit_that_is_reached_within_a_batch(tmp_path: Path, quick: None) -> None:
    """A write that fails half way leaves what was before readable, and the process alive."""
    import resource

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        log = ImpressionLog(tmp_path, capacity=300)
        for k in range(1000):
            log.log_slate(checkout(), slate(f"{k:04d}"))
            time.sleep(0.0005)
        wait_for(lambda: log.write_failure_count > 1)
        (tmp_path / "written").write_text(str(log.written_count))
        log.close()
        assert log.written_count + log.dropped_count == 1000

    assert os.waitpid(forked(work), 0)[1] == 0
    ImpressionLog(tmp_path).close()
    written = int((tmp_path / "written").read_text())
    assert 0 < written < 1000
    assert requests(tmp_path) == [f"{k:04d}" for k in range(written)]


def test_a_disk_that_hangs_delays_nothing(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, is_hanging, append = threading.Event(), threading.Event(), Journal.append

    def wait(journal: Journal, batch: Any) -> None:
        is_hanging.set()
        released.wait(600)
        append(journal, batch)

    monkeypatch.setattr(Journal, "append", wait)
    log = ImpressionLog(tmp_path, capacity=50)
    log.log_slate(checkout(), slate("r"))
    assert is_hanging.wait(120)
    started = time.perf_counter()
    for k in range(200):
        log.log_slate(checkout(), slate(f"{k:03d}"))
    assert time.perf_counter() - started < 60
    assert (log.written_count, log.dropped_count) == (0, 151)
    released.set()
    log.close()
    assert requests(tmp_path) == sorted(["r", *(f"{k:03d}" for k in range(49))])


def test_a_folder_that_comes_late(tmp_path: Path, quick: None, caplog: pytest.LogCaptureFixture) -> None:
    """A path that cannot be a folder stops nobody; when it can be one, what waited is there."""
    (tmp_path / "shop").write_text("a file")
    log = ImpressionLog(tmp_path / "shop" / "events")
    log.log_slate(checkout(), slate("r"))
    wait_for(lambda: log.write_failure_count > 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    (tmp_path / "shop").unlink()
    wait_for(lambda: log.written_count == 1)
    for file in (tmp_path / "shop" / "events").iterdir():
        file.unlink()  # with the journal that is being written
    log.log_slate(checkout(), slate("after"))
    log.close()
    assert requests(tmp_path / "shop" / "events") == ["after"]


def test_a_record_that_makes_no_row_costs_no_other(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    for user in ("u1", "\ud800", "u3"):
        log.log_slate(checkout(user_id=user), slate(f"of {user!r}"))
    log.close()
    assert requests(tmp_path) == ["of 'u1'", "of 'u3'"]
    assert (log.written_count, log.dropped_count) == (2, 1)
