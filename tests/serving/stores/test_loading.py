"""Filling a store from what an export wrote, and from the canonical tables of a shop."""

import csv
import gzip
import io
import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import serving.stores.table_batches
from serving import open_store
from serving.cli import main
from serving.stores.loading import TableFormat, bulk_load
from serving.table_files import CsvFormat
from tests.serving.stores.test_stores import assert_same

ORDERS: dict[str, Any] = {
    "order_id": ["o1", "o1", "o2", "o3"],
    "user_id": ["u2", "u2", "u1", "u2"],
    "item_id": ["i1", "i2", "i3", "i1"],
    "ts": pa.array([100, 100, 50, 20], pa.int64()),
    "quantity": [1.0, 2.0, 3.0, 1.0],
    "price": [1.5, 0.0, 2.5, 1.5],
    "store": ["a", "a", "b", "a"],
}
EVENTS: dict[str, Any] = {
    "user_id": ["u2", "u2", "u3", "u2", "u1"],
    "item_id": ["i1", "i9", "i7", "i1", "i3"],
    "ts": [100, 30, 10, 101, 50],
    "kind": ["click", "impression", "cart", "purchase", "purchase"],
}


def ignore(done: int, total: int) -> None:
    """No progress to show."""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    pq.write_table(pa.table(ORDERS), tmp_path / "orders.parquet")
    pq.write_table(pa.table(EVENTS), tmp_path / "events.parquet")
    return tmp_path


def test_an_exported_store(version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every user is known as before, from the command line, however often it is loaded."""
    source, target = version.parent / "store.arrow", tmp_path / "events.db"
    exported = open_store(source)
    for _ in range(2):
        assert main(["load", "--store", str(target), "--from", str(source)]) == 0
        assert "rows/s" in capsys.readouterr().err
        store = open_store(target)
        for user in [f"u{k:03d}" for k in range(60)]:
            history = exported.get(user)
            profile = {name: value for name, value in history.profile.items() if value is not None}
            assert_same(store.get(user), replace(history, profile=profile))
        assert store.get("u001").item_id
    answer = ["recommend", "--bundle", str(version), "--user", "u001", "--store"]
    assert main([*answer, str(target)]) == main([*answer, str(source)]) == 0
    slates = [
        [line.split() for line in part.splitlines()[1:7]]
        for part in capsys.readouterr().out.split("user u001")[1:]
    ]
    assert slates[0] == slates[1]


def test_canonical_tables(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are purchases, clicks and cart events come along, in batches of any size, once."""
    for rows in (100, 2, 1):
        monkeypatch.setattr(serving.stores.table_batches, "BATCH_ROWS", rows)
        store = open_store(shop / f"{rows}.db")
        for _ in range(2):
            assert bulk_load(store, shop, ignore) == 6
            history = store.get("u2")
            assert history.item_id == ["i1", "i1", "i1", "i2"]
            assert history.ts.tolist() == [20, 100, 100, 100]
            assert history.kind.tolist() == [0, 1, 0, 0]
            assert history.quantity.tolist() == [1, 1, 1, 2]
            assert history.price.tolist() == [1.5, 0, 1.5, 0]
            assert store.get("u3").kind.tolist() == [2]
            assert store.get("u1").item_id == ["i3"]


class CountingStore:
    """The most events that one call appends."""

    def __init__(self) -> None:
        self.largest = 0

    def append_many(self, users: Any) -> None:
        self.largest = max(self.largest, sum(len(history.item_id) for _, history in users))


def test_memory_holds_a_batch(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.stores.table_batches, "BATCH_ROWS", 2)
    counting = CountingStore()
    seen: list[tuple[int, int]] = []
    bulk_load(counting, shop, lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    assert counting.largest == 2
    assert seen[-1] == (6, 9)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize(
    "ts",
    [
        pa.array([100, 100, 50, 20], pa.timestamp("s")),
        pa.array([100_900, 100_000, 50_999, 20_000], pa.timestamp("ms", "UTC")),
        pa.array(
            [datetime.fromtimestamp(ts, UTC) for ts in (100, 100, 50, 20)], pa.timestamp("us", "Asia/Tokyo")
        ),
        pa.array([100_000_000_001, 100 * 10**9, 50 * 10**9, 20 * 10**9], pa.timestamp("ns")),
        pa.array([100, 100, 50, 20], pa.int32()),
    ],
)
def test_times_and_ids_as_shops_have_them(shop: Path, ts: pa.Array) -> None:
    table = {**ORDERS, "ts": ts, "item_id": pa.array([1, 2, 3, 1]), "price": pa.array([1, 0, 2, 1])}
    table["user_id"] = pa.array(["u2", "u2", "u1", "u2"]).dictionary_encode()
    (shop / "orders.parquet").unlink()
    (shop / "events.parquet").unlink()
    (shop / "orders.parquet").mkdir()  # as preparation may leave it
    pq.write_table(pa.table(table), shop / "orders.parquet" / "part-0.parquet")
    store = open_store(shop / "events.db")
    assert bulk_load(store, shop, ignore) == 4
    assert store.get("u2").item_id == ["1", "1", "2"]
    assert store.get("u2").ts.tolist() == [20, 100, 100]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_csv_files_are_loaded_as_parquet_files(shop: Path, tmp_path: Path, suffix: str) -> None:
    """Also with another separator, times as text, and the orders of guests, who have no history."""
    plain = open_store(tmp_path / "plain.db")
    n_events = bulk_load(plain, shop, ignore)
    other = tmp_path / "csv"
    other.mkdir()
    for name, table in {"orders": ORDERS, "events": EVENTS}.items():
        rows = pa.table(table).to_pylist()
        guest = {"user_id": "nan" if name == "orders" else ""}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter=";")
        writer.writeheader()
        for row in [*rows, rows[0] | guest]:
            when = datetime.fromtimestamp(row["ts"] - 5 * 3600, UTC)
            writer.writerow(row | {"ts": f"{when:%Y-%m-%d %H:%M:%S} -0500"})
        opened = gzip.open if suffix.endswith(".gz") else open
        with opened(other / f"{name}{suffix}", "wt") as file:
            file.write(text.getvalue())
    store = open_store(tmp_path / "csv.db")
    assert bulk_load(store, other, ignore, TableFormat(CsvFormat(";"))) == n_events
    for user in ("u1", "u2", "u3"):
        assert_same(store.get(user), plain.get(user))
    (other / f"orders{suffix}").unlink()
    (other / "orders.csv").write_text("user_id;item_id;ts;quantity;price\nu;i;5;1;1\nu;i;soon;1;1\n")
    with pytest.raises(ValueError, match=r"orders\.csv: row 2: ts is 'soon', which cannot be read"):
        bulk_load(store, other, ignore, TableFormat(CsvFormat(";")))


def bad() -> Iterator[tuple[str, Any, str]]:
    yield "ts", pa.array([100, 10**12, 50, 20]), "row 2: ts is 1000000000000, which cannot be loaded"
    yield "ts", pa.array([1, 1, 1, None]), "row 4: ts is None"
    yield "ts", ["2024-01-01"] * 4, "column ts is string, expected int64. To do: cast it"
    yield "item_id", ["i", None, "i", "i"], "row 2: item_id is None"
    yield "item_id", [1.0, 2.0, 3.0, 4.0], "column item_id is double, expected string"
    yield "quantity", [1.0, 1.0, 0.0, 1.0], "row 3: quantity is 0.0"
    yield "quantity", [1.0, 1.0, 1.0, math.nan], "row 4: quantity is nan"
    yield "price", [1.0, math.inf, 1.0, 1.0], "row 2: price is inf"


@pytest.mark.parametrize(("column", "values", "message"), list(bad()))
def test_rows_that_are_no_events(
    shop: Path, column: str, values: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({**ORDERS, column: values}), shop / "orders.parquet")
    assert main(["load", "--store", str(shop / "events.db"), "--from", str(shop)]) == 1
    printed = capsys.readouterr().err
    assert f"orders.parquet: {message}" in printed


def test_returns_and_further_kinds_enter_no_history(shop: Path) -> None:
    plain = open_store(shop / "plain.db")
    n_events = bulk_load(plain, shop, ignore)
    with_return = pa.concat_tables(
        [pa.table(ORDERS), pa.table(ORDERS).slice(0, 1).set_column(
            list(ORDERS).index("quantity"), "quantity", pa.array([-1.0])
        )]
    )  # fmt: skip
    pq.write_table(with_return, shop / "orders.parquet")
    wish = pa.table(EVENTS).slice(0, 1).set_column(list(EVENTS).index("kind"), "kind", pa.array(["wishlist"]))
    pq.write_table(pa.concat_tables([pa.table(EVENTS), wish]), shop / "events.parquet")
    store = open_store(shop / "events.db")
    assert bulk_load(store, shop, ignore) == n_events
    for user in ("u1", "u2"):
        assert store.get(user).item_id == plain.get(user).item_id


def test_what_cannot_be_loaded(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(tmp_path / "events.db")
    with pytest.raises(FileNotFoundError, match=r"expected a store\.arrow, or a folder"):
        bulk_load(store, tmp_path / "nowhere", ignore)
    pq.write_table(
        pa.table({**EVENTS, "kind": ["click", "Clicks", "cart", "cart", "cart"]}), shop / "events.parquet"
    )
    with pytest.raises(ValueError, match=r"events\.parquet: row 2: kind is 'Clicks'"):
        bulk_load(store, shop, ignore)
    pq.write_table(pa.table(EVENTS).drop(["ts"]), shop / "events.parquet")
    with pytest.raises(ValueError, match=r"events\.parquet: no column ts"):
        bulk_load(store, shop, ignore)
    for name in ("orders", "events"):
        (shop / f"{name}.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither orders nor events"):
        bulk_load(store, shop, ignore)
    (shop / "orders.parquet").write_text("text")
    assert main(["load", "--store", str(tmp_path / "events.db"), "--from", str(shop)]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["load", "--store", "x", "--from", str(shop), "--max-events", "0"])
    with pytest.raises(SystemExit):
        main(["load", "--from", str(shop)])


def test_no_rows_at_all(shop: Path) -> None:
    for name in ("orders", "events"):
        pq.write_table(pq.read_table(shop / f"{name}.parquet").slice(0, 0), shop / f"{name}.parquet")
    assert bulk_load(open_store(shop / "events.db"), shop, ignore) == 0


def test_tables_with_names_and_numbers_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "Invoice;CustomerID;StockCode;InvoiceDate;Quantity;UnitPrice\n"
    (tmp_path / "orders.csv").write_text(
        header + "1;17.0;007;01.02.2026 10:00;2;1,5\n2;;008;01.02.2026 11:00;1;2\n"
    )
    rows = {"CustomerID": [17.0, None], "item_id": ["007", "008"], "ts": [5, 6], "kind": ["click", "click"]}
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")
    names = ["user_id=CustomerID", "orders.item_id=StockCode", "orders.ts=InvoiceDate", "quantity=Quantity"]
    arguments = ["load", "--store", str(tmp_path / "store.db"), "--from", str(tmp_path), "--delimiter", ";"]
    arguments += [
        "--decimal",
        ",",
        "--time-format",
        "%d.%m.%Y %H:%M",
        "--integer",
        "user_id",
        "--column",
        *names,
    ]
    assert main([*arguments, "price=UnitPrice"]) == 0
    history = open_store(tmp_path / "store.db").get("17")
    assert history.item_id == ["007", "007"]
    assert history.ts.tolist() == [5, int(datetime(2026, 2, 1, 10, tzinfo=UTC).timestamp())]
    assert (history.quantity.tolist(), history.price.tolist()) == ([1, 2], [0, 1.5])
    capsys.readouterr()
    assert main(arguments) == 1
    assert "By another name? --column 'price=UnitPrice'" in capsys.readouterr().err
    for wrong, words in (("usr_id=CustomerID", "Did you mean user_id"), ("price", "expected NAME=NAME")):
        with pytest.raises(SystemExit):
            main([*arguments, wrong])
        assert words in capsys.readouterr().err
