"""Every kind of bad input is named, or set aside and counted."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from data.sources import tables as source
from data.tables.checks import check_tables
from data.tables.contract import conform
from tests.data.conftest import config, save
from tests.data.shop import make_shop, write_csv

# (table, change of its first row or rows to add, words that the error must hold)
BAD = {
    "null id": ("events", {"user_id": ""}, "user_id is null"),
    "null order id": ("orders", {"order_id": ""}, "order_id is null"),
    "null item id": ("items", {"item_id": ""}, "item_id is null"),
    "negative price": ("orders", {"price": -1}, "price is negative"),
    "no number": ("orders", {"price": "abc"}, "price cannot be read as number"),
    "not finite": ("orders", {"price": "nan"}, "price is not finite"),
    "infinite": ("orders", {"quantity": "inf"}, "quantity is not finite"),
    "quantity 0": ("orders", {"quantity": 0}, "quantity is 0"),
    "null quantity": ("orders", {"quantity": ""}, "quantity is null"),
    "no time": ("orders", {"ts": "yesterday"}, "ts cannot be read as timestamp"),
    "too early": ("orders", {"ts": "1971-01-01"}, "ts is outside 1990 to tomorrow"),
    "too late": ("orders", {"ts": "2150-01-01T00:00:00Z"}, "ts is outside 1990 to tomorrow"),
    "milliseconds": ("orders", {"ts": "1704067200000"}, "ts is outside 1990 to tomorrow"),
    "margin": ("items", {"margin": 35}, "margin is outside -1 to 1"),
    "negative list price": ("items", {"price": -2}, "price is negative"),
    "misspelled kind": ("events", {"kind": "Clicks"}, "kind is not one of impression, click, cart, purchase"),
    "no kind": ("events", {"kind": "a click"}, "kind is not one of impression, click, cart, purchase"),
    "propensity": ("events", {"propensity": 1.5}, "propensity is outside (0, 1]"),
    "withhold": ("events", {"withhold": 1.0}, "withhold is outside [0, 1)"),
    "negative value": ("events", {"value": -3}, "value is negative"),
}
REPEATED_IDS = {"items": "item_id was already given", "users": "user_id was already given"}


def with_events(tables: dict[str, Any]) -> None:
    first = tables["orders"][0]
    tables["events"] = [
        {"user_id": first["user_id"], "item_id": first["item_id"], "ts": first["ts"], "kind": kind}
        for kind in ("click", "impression")
    ]


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_stops_or_is_set_aside(shop: tuple[Path, dict[str, Any]], case: str) -> None:
    folder, tables = shop
    name, change, words = BAD[case]
    with_events(tables)
    tables[name][1] |= change
    save(folder, tables)
    with pytest.raises(DataError) as error:
        rejected_rows(folder, "fail")
    for part in (f"{name}.csv", words, "rows 2", "data.bad_rows=quarantine"):
        assert part in str(error.value)

    rejected = rejected_rows(folder, "quarantine")
    assert [(r["table"], r["row"]) for r in rejected] == [(name, 2)]
    assert words in rejected[0]["reason"]
    content = json.loads(rejected[0]["content"])
    column, value = next(iter(change.items()))
    if value not in ("", "nan", "inf") and "ts" not in change:
        assert str(content[column]).startswith(str(value))


def rejected_rows(folder: Path, bad_rows: str) -> list[dict[str, Any]]:
    """The rejected rows, without the other steps of `prepare`."""
    con = ibis.duckdb.connect(threads=2)
    files = source.table_files({"root": str(folder)})
    raw = source.read_tables(con, {"root": str(folder)})
    conformed = {n: con.create_table(f"c_{n}", conform(t, n, files[n])) for n, t in raw.items()}
    return check_tables(con, conformed, files, bad_rows).rejected.to_pylist()


def test_events_of_a_kind_that_no_task_names_are_left_out_and_counted(
    shop: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    """Also where they are all that is logged. Their users and items leave no trace."""
    folder, tables = shop
    first = tables["orders"][0]
    row = {"user_id": "visitor", "item_id": "unlisted", "ts": first["ts"], "session": "a", "kind": "hover"}
    tables["events"] = [row, row | {"kind": "scroll", "item_id": ""}, row | {"item_id": "i001"}]
    save(folder, tables)
    out = prepare(config(folder))
    meta = json.loads((out / "meta.json").read_text())
    assert meta["columns"]["unread_kinds"] == {"hover": 2, "scroll": 1}
    assert meta["columns"]["unread"] == {"events": {"session": "text"}}
    assert (meta["counts"]["events"], meta["counts"]["unlisted_items"], meta["counts"]["users"]) == (0, 0, 20)
    printed = capsys.readouterr().out
    assert (
        "not read: events.session (text), events of kind hover (2; a task with label: hover reads them)"
        in printed
    )


def test_prepare_stops_or_sets_aside(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    tables["orders"][1]["price"] = -1
    save(folder, tables)
    with pytest.raises(DataError, match="price is negative"):
        prepare(config(folder))
    assert not list((folder / "prepared").iterdir()), "a failed run leaves nothing behind"
    out = prepare(config(folder, bad_rows="quarantine"))
    assert pq.read_table(out / "rejected.parquet").num_rows == 1
    assert json.loads((out / "meta.json").read_text())["counts"]["rejected"] == 1


@pytest.mark.parametrize("name", REPEATED_IDS)
def test_an_id_with_two_rows_is_bad(shop: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, tables = shop
    differing = {"items": {"title": "another"}, "users": {"age": 99}}[name]
    tables[name].append(tables[name][0] | differing)
    save(folder, tables)
    with pytest.raises(DataError, match=REPEATED_IDS[name]) as error:
        rejected_rows(folder, "fail")
    assert f"rows {len(tables[name])}" in str(error.value), "the later one is the bad one"


def test_one_error_names_all_reasons_of_all_tables(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    for k in range(8):
        tables["orders"][k]["price"] = -1
    tables["orders"][9] |= {"quantity": 0, "item_id": ""}
    tables["items"][3]["margin"] = 2
    tables["orders"][20]["user_id"] = "u999"  # the order's other lines are someone else's
    save(folder, tables)
    with pytest.raises(DataError) as error:
        prepare(config(folder))
    text = str(error.value)
    for part in ("price is negative: 8 (rows 1, 2, 3, 4, 5, …)", "quantity is 0: 1 (rows 10)",
                 "item_id is null", "margin is outside", "order_id belongs to several users",
                 "items.csv", "orders.csv"):  # fmt: skip
        assert part in text


def test_the_same_item_twice_in_an_order_is_fine(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    line = tables["orders"][0]
    tables["orders"].append({**line, "quantity": line["quantity"] + 3, "price": line["price"] + 1})
    save(folder, tables)
    out = prepare(config(folder))
    train = pq.read_table(out / "examples/train.parquet").to_pylist()
    row = next(r for r in train if r["order_id"] == line["order_id"])
    item = int(line["item_id"][1:]) + 1
    q = line["quantity"]
    assert row["basket_item"].count(item) == 1
    position = row["basket_item"].index(item)
    assert row["basket_quantity"][position] == 2 * q + 3
    mean = (q * line["price"] + (q + 3) * (line["price"] + 1)) / (2 * q + 3)
    assert row["basket_price"][position] == pytest.approx(mean, rel=1e-6)


def test_returns_are_dropped_and_counted(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    before = pq.read_table(prepare(config(folder)) / "examples/train.parquet")
    line = tables["orders"][0]
    tables["orders"].append({**line, "order_id": "r1", "quantity": -1, "price": -line["price"]})
    save(folder, tables)
    out = prepare(config(folder))
    assert json.loads((out / "meta.json").read_text())["counts"]["returns"] == 1
    assert pq.read_table(out / "examples/train.parquet").equals(before)


@pytest.mark.parametrize("name", ["orders", "items"])
def test_missing_and_empty_tables(shop: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, _ = shop
    path = folder / f"{name}.csv"
    header = path.read_text().split("\n")[0]
    path.write_text(header + "\n")
    with pytest.raises(DataError, match=f"{name}.csv: the table is empty"):
        prepare(config(folder))
    path.write_text("")
    with pytest.raises(DataError, match=f"{name}.csv: cannot be read: {name}.csv is empty"):
        prepare(config(folder))
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing: expected {name}.parquet"):
        prepare(config(folder))


def test_files_that_cannot_be_used(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    (folder / "orders.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"both orders\.csv and orders\.parquet exist"):
        prepare(config(folder))
    (folder / "orders.csv").unlink()
    with pytest.raises(DataError, match=r"orders\.parquet: cannot be read"):
        prepare(config(folder))
    (folder / "orders.parquet").unlink()
    (folder / "orders.csv").write_text("order_id;user_id\n1;2\n")
    with pytest.raises(DataError, match="separated by ';', expected ','"):
        prepare(config(folder))
    save(folder, tables)
    good = (folder / "orders.csv").read_text().split("\n")
    (folder / "orders.csv").write_text("\n".join([*good[:2], good[2] + ",more", *good[3:]]))
    with pytest.raises(
        DataError, match=r"orders\.csv: cannot be read: line 3 has 8 fields, the header has 7"
    ):
        prepare(config(folder))
    with pytest.raises(DataError, match="no such folder"):
        prepare({**config(folder), "data": {**config(folder)["data"], "root": str(folder / "nowhere")}})


@pytest.mark.parametrize(
    "extra", ["user_id,item_id,ts,kind,value\nu000,i001,2024-01-06,click,\n", "# a note\n"]
)
def test_no_line_of_a_csv_file_is_skipped(shop: tuple[Path, dict[str, Any]], extra: str) -> None:
    """Two files in one, and a line that some readers take for a comment."""
    folder, _ = shop
    (folder / "events.csv").write_text("user_id,item_id,ts,kind\nu000,i000,2024-01-05,click\n" + extra)
    with pytest.raises(DataError, match=r"events\.csv: cannot be read: line 3 has . fields"):
        rejected_rows(folder, "fail")


def test_every_row_bad_is_an_error_even_in_quarantine(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    for line in tables["orders"]:
        line["price"] = -1
    save(folder, tables)
    with pytest.raises(DataError, match=r"orders\.csv: every one of the \d+ rows is bad"):
        prepare(config(folder, bad_rows="quarantine"))


def test_missing_and_mistyped_columns(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    renamed = [{("qty" if k == "quantity" else k): v for k, v in r.items()} for r in tables["orders"]]
    renamed = [{("userid" if k == "user_id" else k): v for k, v in r.items()} for r in renamed]
    write_csv(folder / "orders.csv", renamed)
    with pytest.raises(DataError) as error:
        prepare(config(folder))
    assert "lacks 'user_id' (string or integer), 'quantity' (number)" in str(error.value)
    assert "'data.columns.orders={user_id: userid, quantity: qty}'" in str(error.value)

    prices = ["", "", "dear"] + ["cheap"] * (len(tables["orders"]) - 3)
    write_csv(
        folder / "orders.csv", [{**r, "price": p} for r, p in zip(tables["orders"], prices, strict=True)]
    )
    with pytest.raises(
        DataError, match=r"orders\.csv: column 'price' is text such as 'dear', expected number \(rows 3\)"
    ):
        prepare(config(folder))

    (folder / "orders.csv").unlink()
    table = pa.Table.from_pylist(tables["orders"])
    number = table.set_column(0, "order_id", pa.array([float(k) for k in range(table.num_rows)]))
    pq.write_table(number, folder / "orders.parquet")
    with pytest.raises(
        DataError, match=r"column 'order_id' is float64: .*ids such as 17 into 17.0.*type: integer"
    ):
        prepare(config(folder))
    text = table.set_column(5, "price", pa.array([str(r["price"]) for r in tables["orders"]]))
    pq.write_table(text, folder / "orders.parquet")
    with pytest.raises(DataError, match=r"orders\.parquet: column 'price' is string, expected number"):
        prepare(config(folder))


def test_integer_ids_and_all_ways_to_write_a_time(shop: tuple[Path, dict[str, Any]]) -> None:
    """ISO text with offsets, naive text, Unix seconds and Parquet give the same examples."""
    folder, tables = shop
    orders = [{**r, "order_id": int(r["order_id"][1:])} for r in tables["orders"]]
    moments = [datetime.fromisoformat(r["ts"]) for r in orders]
    east = timezone(timedelta(hours=5, minutes=30))
    formats = {
        "offset": [m.astimezone(east).isoformat() for m in moments],
        "naive": [m.replace(tzinfo=None).isoformat(" ") for m in moments],
        "seconds": [str(int(m.timestamp())) for m in moments],
    }
    results = []
    for times in formats.values():
        write_csv(folder / "orders.csv", [{**r, "ts": t} for r, t in zip(orders, times, strict=True)])
        results.append(pq.read_table(prepare(config(folder)) / "examples/train.parquet"))
    (folder / "orders.csv").unlink()
    table = pa.Table.from_pylist(orders)
    typed = table.set_column(3, "ts", pa.array(moments, pa.timestamp("ms", "Asia/Kolkata")))
    pq.write_table(typed, folder / "orders.parquet")
    results.append(pq.read_table(prepare(config(folder)) / "examples/train.parquet"))
    assert results[0]["order_id"][0].as_py().isdigit()
    assert results[0]["ts"][0].as_py() == min(int(m.timestamp()) for m in moments)
    for result in results[1:]:
        assert result.equals(results[0])


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    """Nanoseconds with a zone, and a column of nulls."""
    save(tmp_path, make_shop())
    orders = pd.read_csv(tmp_path / "orders.csv", dtype=str)
    plain = prepare(config(tmp_path))
    orders["ts"] = pd.to_datetime(orders["ts"], utc=True).astype("datetime64[ns, UTC]")
    orders["quantity"], orders["price"] = orders["quantity"].astype(float), orders["price"].astype(float)
    table = pa.Table.from_pandas(orders, preserve_index=False).append_column(
        "campaign", pa.nulls(len(orders))
    )
    (tmp_path / "orders.csv").unlink()
    pq.write_table(table, tmp_path / "orders.parquet")
    assert pq.read_schema(tmp_path / "orders.parquet").field("ts").type == pa.timestamp("ns", "UTC")
    typed = prepare(config(tmp_path))
    assert typed != plain
    for name in ("train", "test"):
        before, after = (
            pq.read_table(f / "examples" / f"{name}.parquet").drop(["context"]) for f in (plain, typed)
        )
        assert before.equals(after)
