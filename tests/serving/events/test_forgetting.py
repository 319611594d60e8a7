"""Forgotten users leave the log: slates by their ids, feedback also by its slate."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serving.events import forgetting, impression_log
from serving.events.forgetting import delete_logged_users
from serving.events.impression_log import ImpressionLog
from tests.serving.events.logs import TS, checkout, forked, logged, slate, wait_for
from tests.serving.forget.traces import traces

USER, NEEDLES = "person-7f3a", [b"person-7f3a", b"order-7f3a", b"request-7f3a"]


def log_visit(log: ImpressionLog, number: int, user: str | None = USER) -> None:
    request = f"request-7f3a-{number}" if user == USER else f"request-{user}-{number}"
    order = "order-7f3a" if user == USER else f"order-{user}"
    log.log_slate(checkout(user_id=user, order_id=order), slate(request))


def write_log(folder: Path) -> None:
    """Two files: slates, and feedback that names slates, users or both."""
    log = ImpressionLog(folder)
    for number in range(3):
        log_visit(log, number)
        log_visit(log, number, "other")
        log_visit(log, number, None)
    log.close()
    log = ImpressionLog(folder)
    log.log_feedback("click", "request-7f3a-0", "i1", TS)
    log.log_feedback("click", "request-other-0", "i1", TS)
    log.log_feedback("click", None, "i2", TS, user_id=USER)
    log.log_feedback("click", "request-None-1", "i2", TS, user_id=USER)  # a guest who then signed in
    log.close()


def test_rows_of_the_user_and_of_the_user_s_slates_go(tmp_path: Path) -> None:
    write_log(tmp_path)
    rows, schema = logged(tmp_path), pq.read_schema(next(tmp_path.glob("*.parquet")))
    assert any(traces(tmp_path, NEEDLES))
    deletion = delete_logged_users(tmp_path, [USER])
    kept = [
        row
        for row in rows
        if row["user_id"] != USER
        and row["request_id"] not in ("request-7f3a-0", "request-7f3a-1", "request-7f3a-2", "request-None-1")
    ]
    assert logged(tmp_path) == kept
    assert (deletion.rows, deletion.files, deletion.waiting) == (len(rows) - len(kept), 2, [])
    assert [*traces(tmp_path, NEEDLES)] == []
    assert pq.read_schema(next(tmp_path.glob("*.parquet"))) == schema
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet"}
    assert delete_logged_users(tmp_path, [USER]).rows == 0


def test_a_deletion_that_was_killed_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the slates are gone and the feedback, which names no user, is not."""
    write_log(tmp_path)
    replaced = []

    def die_after_the_first(path: Path, sync: bool):
        if replaced:
            raise KeyboardInterrupt
        replaced.append(path)
        return write_atomically(path, sync)

    write_atomically = forgetting.write_atomically
    monkeypatch.setattr(forgetting, "write_atomically", die_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        delete_logged_users(tmp_path, [USER])
    monkeypatch.undo()
    left = [*traces(tmp_path, NEEDLES, besides=[forgetting.PENDING_FILE])]
    assert left
    assert not any("person-7f3a" in trace for trace in left if "parquet" not in trace)
    delete_logged_users(tmp_path, [USER])
    assert [*traces(tmp_path, NEEDLES)] == []


def test_journals_of_killed_processes_are_finished_first(tmp_path: Path, quick: None) -> None:
    def die() -> None:
        log = ImpressionLog(tmp_path)
        log_visit(log, 1)
        log_visit(log, 1, "other")
        wait_for(lambda: log.written_count == 2)

    import os

    assert os.waitpid(forked(die), 0)[1] == 0
    assert [*tmp_path.glob("*.journal")]
    assert delete_logged_users(tmp_path, [USER]).rows == 6
    assert [*traces(tmp_path, NEEDLES)] == []
    assert {row["user_id"] for row in logged(tmp_path)} == {"other"}


def test_a_running_process_s_journal_waits_until_it_is_finished(tmp_path: Path, quick: None) -> None:
    write_log(tmp_path)
    log = ImpressionLog(tmp_path)
    log_visit(log, 9)
    log.log_feedback("click", "request-7f3a-1", "i1", TS)
    log_visit(log, 9, "other")
    wait_for(lambda: log.written_count == 3)
    waiting = delete_logged_users(tmp_path, [USER]).waiting
    assert len(waiting) == 1
    assert waiting[0].endswith(".journal")
    assert json.loads((tmp_path / forgetting.PENDING_FILE).read_text())
    log.finish_file()
    log_visit(log, 10, "other")
    deletion = delete_logged_users(tmp_path, [USER], wait_s=60)
    assert (deletion.rows, deletion.waiting) == (7, [])
    assert [*traces(tmp_path, NEEDLES)] == []
    log.close()
    assert [row["request_id"] for row in logged(tmp_path)].count("request-other-9") == 6
    assert [row["request_id"] for row in logged(tmp_path)].count("request-other-10") == 6


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "20990101T000000-1-ab.parquet").write_bytes(b"PAR1 person-7f3a")
    deletion = delete_logged_users(tmp_path, [USER])
    assert deletion.files == 2
    assert len(deletion.waiting) == 1
    assert "20990101T000000-1-ab.parquet cannot be read" in deletion.waiting[0]


def test_finish_file_takes_all_that_was_logged_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(impression_log, "FLUSH_INTERVAL_S", 0.05)
    log = ImpressionLog(tmp_path)
    for number in range(20):
        log_visit(log, number)
        log.finish_file()
        wait_for(lambda n=number: len({row["request_id"] for row in logged(tmp_path)}) == n + 1)
    log.close()
