"""An impression log as the events of a shop: a folder of Parquet files, read by `data=tables`."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from data.sources import tables as source
from data.tables.attribution import JOIN_STATES
from tests.data.conftest import config, save
from tests.data.shop import make_shop


@pytest.fixture
def log_shop(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """A shop whose events are a folder of two files, and their rows."""
    tables = make_shop(users=20, items=32, days=70, events=True)
    rows = []
    for event in tables.pop("events"):
        row = {k: event[k] for k in ("user_id", "item_id", "kind")}
        row |= {"request_id": f"of {event['order_id']}", "arm": "a", "sources": ["ann"]}
        ts = int(datetime.fromisoformat(event["ts"]).timestamp())
        if event["kind"] == "impression":
            rows.append(row | {"ts": ts, "order_id": event["order_id"],
                               "position": event["position"] + 1, "propensity": 0.5})  # fmt: skip
        else:
            rows.append(row | {"ts": ts, "user_id": None})
    save(tmp_path, tables)
    write_log(tmp_path / "events", rows)
    return tmp_path, rows


def write_log(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Two files; only the second one has the column `value`."""
    folder.mkdir(exist_ok=True)
    schema = pa.schema({
        "user_id": pa.string(), "item_id": pa.string(), "kind": pa.string(), "request_id": pa.string(),
        "order_id": pa.string(), "ts": pa.int64(), "position": pa.int32(), "propensity": pa.float64(),
        "arm": pa.string(), "sources": pa.list_(pa.string()),
    })  # fmt: skip
    half = len(rows) // 2
    pq.write_table(pa.Table.from_pylist(rows[half:], schema), folder / "a.parquet")
    schema = schema.append(pa.field("value", pa.float64()))
    pq.write_table(pa.Table.from_pylist(rows[:half], schema), folder / "b.parquet")
    (folder / "c.journal").write_bytes(b"being written")


def test_a_folder_of_the_log_is_the_events(log_shop: tuple[Path, list[dict[str, Any]]]) -> None:
    """Examples are those of events that name their user and order themselves."""
    folder, rows = log_shop
    out = prepare(config(folder))
    meta = json.loads((out / "meta.json").read_text())
    clicks = sum(row["kind"] == "click" for row in rows)
    assert meta["attribution"]["click"] == {**dict.fromkeys(JOIN_STATES, 0), "joined": clicks}
    assert meta["attribution"]["impression"]["joined"] == len(rows) - clicks
    assert meta["counts"]["events"] == len(rows)
    assert meta["click"] == "logged"
    assert all(meta["impressions"].values())

    other_shop = folder / "other_shop"
    save(other_shop, make_shop(users=20, items=32, days=70, events=True))
    plain = prepare(config(other_shop))
    assert json.loads((plain / "meta.json").read_text())["attribution"] is None
    for split in ("train", "validation", "test"):
        a, b = (pq.read_table(f / "examples" / f"{split}.parquet") for f in (out, plain))
        assert a.num_rows
        assert a.equals(b)


def test_the_click_window_and_a_new_file_change_the_result(
    log_shop: tuple[Path, list[dict[str, Any]]],
) -> None:
    folder, rows = log_shop
    clicks = sum(row["kind"] == "click" for row in rows)
    write_log(folder / "events", [row | {"ts": row["ts"] + 30 * (row["kind"] == "click")} for row in rows])
    first = prepare(config(folder, click_window="1m"))
    counts = json.loads((first / "meta.json").read_text())["attribution"]["click"]
    assert counts == {**dict.fromkeys(JOIN_STATES, 0), "late": clicks}
    extra = rows[0] | {"kind": "click", "request_id": "unknown"}
    pq.write_table(pa.Table.from_pylist([extra]), folder / "events" / "d.parquet")
    second = prepare(config(folder, click_window="1m"))
    assert second != first
    counts = json.loads((second / "meta.json").read_text())["attribution"]["click"]
    assert counts == {**dict.fromkeys(JOIN_STATES, 0), "late": clicks, "unknown": 1}
    with pytest.raises(DataError, match=r"data\.click_window is 'soon'"):
        prepare(config(folder, click_window="soon"))


def test_folders_that_cannot_be_used(log_shop: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, rows = log_shop
    events = folder / "events"
    (folder / "events.parquet").write_bytes((events / "a.parquet").read_bytes())
    with pytest.raises(DataError, match=r"both events and events\.parquet exist"):
        prepare(config(folder))
    (folder / "events.parquet").unlink()
    (events / "b.parquet").write_bytes((events / "b.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"events.b\.parquet: cannot be read: "):
        prepare(config(folder))
    bad = rows[0] | {"item_id": None}
    write_log(events, [*rows[1:], bad])
    with pytest.raises(DataError, match=r"events: 1 bad row in table 'events'(.|\n)*item_id is null: 1"):
        prepare(config(folder))
    (events / "a.parquet").unlink()
    (events / "b.parquet").unlink()
    with pytest.raises(DataError, match=r"events: no Parquet file and no CSV file in this folder"):
        prepare(config(folder))


def test_files_that_appear_while_they_are_read_are_an_error(
    log_shop: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = log_shop
    read_tables = source.read_tables

    def add_file_and_read(*arguments: Any) -> Any:
        (folder / "events" / "d.parquet").write_bytes((folder / "events" / "a.parquet").read_bytes())
        return read_tables(*arguments)

    monkeypatch.setattr(source, "read_tables", add_file_and_read)
    with pytest.raises(DataError, match="the input files changed during preparation: run the command again"):
        prepare(config(folder))


def test_bad_cells_of_a_csv_log_are_named(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=32, days=70)
    first = tables["orders"][0]
    row = {k: first[k] for k in ("user_id", "item_id", "order_id", "ts")} | {"kind": "impression"}
    tables["events"] = [row | {"request_id": "r", "position": position} for position in (1, "second")]
    save(tmp_path, tables)
    with pytest.raises(DataError, match=r"position cannot be read as number: 1 \('second'\) \(rows 2\)"):
        prepare(config(tmp_path))
