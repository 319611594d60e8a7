"""Every reader of a shop's files names the single file that is damaged, and the row of a bad value."""

import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.io import engine
from data.item_changes import read_item_updates
from data.shop_check import check_shop
from data.tables.reader import open_file
from experimentation.ab.sessions import AnalysisWindow, read_session_log
from experimentation.off_policy.logged_checkouts import _read_clean_tables
from operations.monitoring.logged_slates import (
    AttributionWindows,
    log_end,
    open_duckdb,
    read_attributed_log,
    read_orders,
)
from serving import open_store
from serving.stores.loading import bulk_load
from tests.data.conftest import config
from tests.data.shop import DAY, START, make_shop, write_csv

END = START + 1000 * DAY
WINDOW = AnalysisWindow(START, END, DAY, DAY)


def prepare(folder: Path, table: str) -> None:
    check_shop(config(folder))


def off_policy(folder: Path, table: str) -> None:
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        _read_clean_tables(con, folder, {"horizon": "14d"})


def load(folder: Path, table: str) -> None:
    store = open_store(folder / "store.db")
    try:
        bulk_load(store, folder, lambda done, total: None)
    finally:
        store.close()


def experiment(folder: Path, table: str) -> None:
    files = {"orders": folder / "orders"} if table == "orders" else {}
    read_session_log(folder / "events", WINDOW, **files)


def monitor(folder: Path, table: str) -> None:
    with open_duckdb() as con:
        orders = read_orders(con, open_file(folder / "orders"), END) if table == "orders" else None
        log_end(con, folder / "events")
        read_attributed_log(con, folder / "events", orders, AttributionWindows(DAY, DAY), 0, END)


def update_items(folder: Path, table: str) -> None:
    read_item_updates(folder / "items")


READERS: dict[str, tuple[Callable[[Path, str], None], ...]] = {
    "orders": (prepare, off_policy, load, experiment, monitor),
    "events": (prepare, off_policy, load, experiment, monitor),
    "items": (prepare, off_policy, update_items),
}
CASES = [
    pytest.param(name, read, id=f"{name}-{read.__name__}") for name, of in READERS.items() for read in of
]
LOG_COLUMNS = {"tier": "ranked", "bundle_version": "v1", "arm": "", "p_click": 0.1, "p_purchase": 0.1}
LOG_COLUMNS |= {"expected_value": 0.1}


def log_table(events: list[dict[str, Any]]) -> pa.Table:
    """Events as a service logs them, with the given time and probability of every item."""
    rows = [
        {"value": None, "propensity": 1.0, "withhold": 0.0, "position": k % 6 + 1, **LOG_COLUMNS}
        | event
        | {"request_id": event["order_id"], "ts": START + k}
        for k, event in enumerate(events)
    ]
    numbers = {name: pa.float64() for name in ("value", "propensity", "withhold", "expected_value")}
    table = pa.Table.from_pylist(rows)
    for name, kind in numbers.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop of folders of two Parquet files, and what a writer left there; do not change it."""
    folder = tmp_path_factory.mktemp("whole")
    for name, rows in make_shop(users=20, items=32, days=70, events=True).items():
        if name == "users":
            continue
        if name == "events":
            table = log_table(rows)
        else:
            write_csv(folder / "rows.csv", rows)
            table = pa_csv.read_csv(folder / "rows.csv")
            (folder / "rows.csv").unlink()
        (folder / name / "_temporary").mkdir(parents=True)
        half = len(table) // 2
        pq.write_table(table.slice(0, half), folder / name / "part-0.parquet")
        pq.write_table(table.slice(half), folder / name / "part-1.parquet")
        for half_written in ("_temporary/part-2.parquet", ".part-2.parquet", "part-2.parquet.tmp"):
            (folder / name / half_written).write_bytes(b"PAR1 and a few")
    return folder


@pytest.fixture
def shop(whole: Path, tmp_path: Path) -> Path:
    for file in whole.rglob("*"):
        target = tmp_path / file.relative_to(whole)
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
    return tmp_path


def error_of(read: Callable[[Path, str], None], shop: Path, table: str) -> str:
    with pytest.raises((DataError, ValueError, OSError, duckdb.Error)) as error:
        read(shop, table)
    return str(error.value)


@pytest.mark.parametrize("read", [prepare, off_policy, load, experiment, monitor, update_items])
def test_what_a_writer_has_not_finished_is_no_part_of_a_table(
    shop: Path, read: Callable[[Path, str], None]
) -> None:
    read(shop, "orders")


@pytest.mark.parametrize("keep", [0, -20], ids=["empty", "without its end"])
@pytest.mark.parametrize(("table", "read"), CASES)
def test_a_parquet_file_cut_short_is_named(
    shop: Path, table: str, read: Callable[[Path, str], None], keep: int
) -> None:
    file = shop / table / "part-1.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    message = error_of(read, shop, table)
    assert "part-1.parquet" in message
    assert "part-0.parquet" not in message


@pytest.fixture
def csv_shop(shop: Path) -> Path:
    """The tables, but the log, as folders of CSV files."""
    for name in ("orders", "items"):
        for file in sorted((shop / name).glob("part-?.parquet")):
            pa_csv.write_csv(pq.read_table(file), file.with_suffix(".csv"))
            file.unlink()
    return shop


def cut_last_line(text: bytes) -> bytes:
    return text[: text.rstrip().rindex(b"\n") + 6]


@pytest.mark.parametrize("damage", [lambda text: b"", cut_last_line], ids=["empty", "cut in mid-line"])
@pytest.mark.parametrize(("table", "read"), [case for case in CASES if case.values[0] != "events"])
def test_a_csv_file_cut_short_is_named(
    csv_shop: Path, table: str, read: Callable[[Path, str], None], damage: Callable[[bytes], bytes]
) -> None:
    file = csv_shop / table / "part-1.csv"
    file.write_bytes(damage(file.read_bytes()))
    message = error_of(read, csv_shop, table)
    assert "part-1.csv" in message
    assert "part-0.csv" not in message
    assert "is empty" in message or "line" in message


@pytest.mark.parametrize("read", [prepare, load, experiment, monitor])
def test_a_bad_value_of_a_csv_file_is_named_with_its_file_and_row(
    csv_shop: Path, read: Callable[[Path, str], None]
) -> None:
    file = csv_shop / "orders" / "part-1.csv"
    lines = file.read_text().splitlines()
    column = lines[0].replace('"', "").split(",").index("price")
    fields = lines[3].split(",")
    fields[column] = "nan"
    lines[3] = ",".join(fields)
    file.write_text("\n".join(lines))
    message = error_of(read, csv_shop, "orders")
    assert "price" in message
    assert "rows 3 of part-1.csv" in message or "part-1.csv: row 3: " in message


BAD_VALUES = [
    pytest.param(table, read, column, value, id=f"{table}-{read.__name__}-{column}-{value}")
    for table, column, value, readers in (
        ("orders", "price", float("nan"), (prepare, off_policy, load, experiment, monitor)),
        ("orders", "quantity", float("-inf"), (prepare, load, experiment, monitor)),
        (
            "orders",
            "ts",
            float("nan"),
            (prepare, off_policy, experiment, monitor),
        ),  # `load` refuses the column
        ("events", "propensity", float("nan"), (prepare, off_policy, monitor)),  # the others do not read it
        ("events", "value", float("inf"), (prepare, experiment, monitor)),
        ("items", "price", float("nan"), (prepare, update_items)),
    )
    for read in readers
]


@pytest.mark.parametrize(("table", "read", "column", "value"), BAD_VALUES)
def test_a_number_that_is_not_finite_is_named_with_its_file_and_row(
    shop: Path, table: str, read: Callable[[Path, str], None], column: str, value: float
) -> None:
    for name in ("part-0", "part-1"):
        file = shop / table / f"{name}.parquet"
        rows = pq.read_table(file)
        numbers = [x.timestamp() if isinstance(x, datetime) else x for x in rows[column].to_pylist()]
        if name == "part-1":
            numbers[2] = value
        rows = rows.set_column(rows.column_names.index(column), column, pa.array(numbers, pa.float64()))
        pq.write_table(rows, file)
    message = error_of(read, shop, table)
    assert "part-1.parquet" in message
    assert column in message
    assert "rows 3 of part-1.parquet" in message or "part-1.parquet: row 3: " in message
