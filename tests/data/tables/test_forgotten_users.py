"""Preparation with `data.forget` makes what it makes of a shop that never had these users."""

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import forget
from data.errors import DataError
from data.prepare import prepare, prepared_key
from tests.data.conftest import config, save
from tests.data.shop import make_shop
from tests.serving.forget.traces import traces

USERS = ["u003", "u007"]
Rows = list[dict[str, Any]]


def log_events(events: Rows) -> Rows:
    """The events as an impression log: some slates without a user, all feedback by its request alone."""
    rows = []
    for event in events:
        row: dict[str, Any] = {k: event[k] for k in ("user_id", "item_id", "kind")}
        row |= {"request_id": f"of {event['order_id']}", "order_id": None, "owner": event["user_id"]}
        row["ts"] = int(datetime.fromisoformat(event["ts"]).timestamp())
        if event["kind"] == "impression":
            is_guest = row["ts"] % 2 == 0
            row |= {"order_id": event["order_id"], "user_id": None if is_guest else event["user_id"]}
        else:
            row["user_id"] = None
        rows.append(row)
    return rows


def prepared_files(folder: Path) -> dict[str, pa.Table]:
    return {str(f.relative_to(folder)): pq.read_table(f) for f in sorted(folder.rglob("*.parquet"))}


@pytest.mark.parametrize("with_log", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_is_the_shop_without_them(tmp_path: Path, with_log: bool) -> None:
    tables = make_shop(users=20, items=32, days=70, events=True)
    tables["orders"][5] |= {"price": -1}  # a bad row of another user, of which a reason is kept
    assert tables["orders"][5]["user_id"] not in USERS
    if with_log:
        tables["events"] = log_events(tables["events"])
    owner = {"events": "owner"} if with_log else {}
    less = {
        name: [row for row in rows if row.get(owner.get(name, "user_id")) not in USERS]
        for name, rows in tables.items()
    }
    results = []
    for name, content in (("all", tables), ("less", less)):
        folder = tmp_path / name
        content["events"] = [{k: v for k, v in row.items() if k != "owner"} for row in content["events"]]
        save(folder, content)
        setting = {"forget": str(tmp_path / "forgotten.txt")} if name == "all" else {}
        (tmp_path / "forgotten.txt").write_text("# by mail\nu003\nu007\nnobody\n")
        results.append(prepare(config(folder, bad_rows="quarantine", **setting)))
    with_list, without = (prepared_files(folder) for folder in results)
    assert with_list.keys() == without.keys()
    for name in with_list:
        assert (
            with_list[name]
            .drop_columns([c for c in ("row",) if name == "rejected.parquet"])
            .equals(without[name].drop_columns([c for c in ("row",) if name == "rejected.parquet"]))
        ), name
    assert (results[0] / "schema.json").read_text() == (results[1] / "schema.json").read_text()
    counts = [json.loads((folder / "meta.json").read_text())["counts"] for folder in results]
    n_rows = sum(map(len, tables.values())) - sum(map(len, less.values()))
    assert counts[0].pop("forgotten") == n_rows > 100
    assert counts[1].pop("forgotten") == 0
    assert counts[0] == counts[1]
    needles = [*(user.encode() for user in USERS), *(b'"%s"' % user.encode() for user in USERS)]
    assert [*traces(results[0], needles)] == []


def test_the_key_follows_the_list_and_not_its_name(tmp_path: Path) -> None:
    save(tmp_path / "shop", make_shop(users=8, items=20, days=40))
    plain = prepared_key(config(tmp_path / "shop"))
    keys = []
    for name, content in (
        ("a.txt", "u001\nu002"),
        ("b.csv", "user_id,why\nu002,mail\nu001,\n"),
        ("c.txt", "u001"),
    ):
        (tmp_path / name).write_text(content)
        keys.append(prepared_key(config(tmp_path / "shop", forget=str(tmp_path / name))))
    pq.write_table(pa.table({"user_id": ["u001"]}), tmp_path / "d.parquet")
    keys.append(prepared_key(config(tmp_path / "shop", forget=str(tmp_path / "d.parquet"))))
    (tmp_path / "empty.txt").write_text("\n# nobody\n")
    assert prepared_key(config(tmp_path / "shop", forget=str(tmp_path / "empty.txt"))) == plain
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert plain not in keys


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "No such file"),
        ("torn.txt", '"open', "JSON string"),
        ("ids.csv", "id\nu001\n", "column user_id is missing; the file has id"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    save(tmp_path / "shop", make_shop(users=8, items=20, days=40))
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"data.forget=.*{message}"):
        prepared_key(config(tmp_path / "shop", forget=str(tmp_path / name)))


def test_folders_that_hold_a_user_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared, runs = tmp_path / "prepared", tmp_path / "runs"
    for folder in (prepared / "a1", prepared / "b2", runs / "ranker-a", runs / "ranker-b", runs / "ranker-c"):
        folder.mkdir(parents=True)
    for name, user in (("a1", "u001"), ("b2", "u002")):
        (prepared / name / "meta.json").write_text("{}")
        pq.write_table(pa.table({"user_id": [user, "u009"]}), prepared / name / "user_histories.parquet")
    for name, source in (("ranker-a", "a1"), ("ranker-b", "b2"), ("ranker-c", "c3")):
        (runs / name / "done.json").write_text(json.dumps({"prepared": f"../../prepared/{source}"}))
    options = forget.FindOptions(user_ids=("u001",), prepared=(prepared, runs))
    assert forget.forget(options) == 1
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines == {
        str(prepared / "a1"): "user_histories.parquet holds one of the users",
        str(runs / "ranker-a"): "made from the prepared folder a1",
        str(runs / "ranker-c"): "made from the prepared folder c3, which is gone: it may hold them",
    }
    shutil.rmtree(runs / "ranker-c")
    assert forget.forget(forget.FindOptions(user_ids=("u003",), prepared=(prepared, runs))) == 0
