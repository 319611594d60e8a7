"""DuckDB tables of an impression log and of the shop's orders and items, as all analyses read them."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from serving.table_files import OFFSET, STANDARD_OFFSET, open_table

REQUIRED_LOG_COLUMNS = {
    "request_id", "user_id", "item_id", "ts", "kind", "tier", "bundle_version", "arm", "value",
}  # fmt: skip
ID_COLUMNS = ("request_id", "user_id", "item_id")
OPTIONAL_LOG_COLUMNS = {  # that logs of earlier releases, or of another service, may lack → type
    "order_id": "VARCHAR",
    "position": "INTEGER",
    "expected_value": "DOUBLE",
    "sources": "VARCHAR[]",
    "latency_ms": "DOUBLE",
    "withhold": "DOUBLE",
}
SHOP_TABLE_COLUMNS = {
    "orders": ("user_id", "item_id", "ts", "quantity", "price", "order_id"),
    "items": ("item_id", "category"),
}
OPTIONAL_SHOP_COLUMNS = ("order_id",)
SHOP_COLUMN_TYPES = {"ts": "BIGINT", "quantity": "DOUBLE", "price": "DOUBLE"}  # others are VARCHAR


def set_utc(con: duckdb.DuckDBPyConnection) -> None:
    """Make times without a zone UTC."""
    with suppress(duckdb.Error):  # other zones than UTC exist only where DuckDB has its ICU extension
        con.execute("SET TimeZone = 'UTC'")


def parquet_files(events: Path) -> list[str]:
    """The Parquet files of a log. Raises ValueError if there are none."""
    files = sorted(events.glob("*.parquet")) if events.is_dir() else [events]
    if not files or not files[0].is_file():
        raise ValueError(
            f"{events} has no Parquet files: expected the folder that --log of the service names"
        )
    return [str(file) for file in files]


def log_time_span(events: Path) -> tuple[int, int]:
    """Unix seconds of the first and the last event of a log. Raises ValueError for an empty one."""
    with duckdb.connect() as con:
        con.read_parquet(parquet_files(events), union_by_name=True).create_view("log")
        first, last = con.execute("SELECT min(ts), max(ts) FROM log").fetchone() or (None, None)
    if first is None:
        raise ValueError(f"{events} holds no events")
    return int(first), int(last)


def create_events_view(con: duckdb.DuckDBPyConnection, path: Path, experiment: str | None) -> None:
    """Create the view `events` of a log.

    `arm` becomes the arm of the experiment, or `all` without one. Optional columns that the log lacks are
    null. Raises ValueError if the log lacks a required column.
    """
    con.read_parquet(parquet_files(path), union_by_name=True).create_view("log")
    names = {name for name, *_ in con.execute("DESCRIBE log").fetchall()}
    if missing := REQUIRED_LOG_COLUMNS - names:
        raise ValueError(f"{path} is no impression log: it has no column {', '.join(sorted(missing))}")
    optional = ", ".join(
        f"{name if name in names else 'NULL'}::{kind} AS {name}"
        for name, kind in OPTIONAL_LOG_COLUMNS.items()
    )
    arm = (
        "'all'" if experiment is None else f"nullif(regexp_extract(arm, '(^|,){experiment}:([^,]+)', 2), '')"
    )
    required = ", ".join(
        f"{name}::VARCHAR AS {name}" if name in ID_COLUMNS else name
        for name in sorted(REQUIRED_LOG_COLUMNS - {"arm"})
    )
    con.execute(f"CREATE VIEW events AS SELECT {required}, {arm} AS arm, {optional} FROM log")


def unfinished_journal_notes(path: Path) -> Iterator[str]:
    """Yield a note if the log has journals that are no Parquet files yet."""
    if count := len([*path.glob("*.journal")]) if path.is_dir() else 0:
        yield f"{count} journals of the log are not finished: their rows are missing from this analysis."


def create_shop_table(con: duckdb.DuckDBPyConnection, name: str, path: Path | None) -> None:
    """Create `orders` or `items` with their columns (docs/architecture.md); without a file it is empty.

    Raises ValueError for a missing file (serving/table_files.py), a missing column, or a row without a time.
    """
    columns = {column: SHOP_COLUMN_TYPES.get(column, "VARCHAR") for column in SHOP_TABLE_COLUMNS[name]}
    if path is None:
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
        con.execute(f"CREATE VIEW {name} AS SELECT {nulls} WHERE false")
        return
    table = open_table(path)
    files: Any = [str(file) for file in table.files]  # its stub knows a single file only
    raw = (
        con.read_csv(files, all_varchar=True, hive_partitioning=False, union_by_name=True)
        if table.csv
        else con.read_parquet(files, hive_partitioning=False, union_by_name=True)
    )
    missing = [column for column in columns if column not in raw.columns]
    if required := [column for column in missing if column not in OPTIONAL_SHOP_COLUMNS]:
        raise ValueError(f"{path}: column {', '.join(required)} is missing; found {', '.join(raw.columns)}")
    raw.create_view(f"raw_{name}")
    iso = f"regexp_replace(ts::VARCHAR, '{OFFSET}', '{STANDARD_OFFSET}')"
    seconds = f"coalesce(try_cast(ts::VARCHAR AS BIGINT), epoch(try_cast({iso} AS TIMESTAMPTZ))::BIGINT)"
    casts = ", ".join(
        f"{seconds} AS ts"
        if column == "ts"
        else f"{'NULL' if column in missing else column}::{kind} AS {column}"
        for column, kind in columns.items()
    )
    con.execute(f"CREATE TEMP TABLE {name} AS SELECT {casts} FROM raw_{name}")
    if "ts" in columns:
        (invalid,) = con.execute(f"SELECT count(*) FROM {name} WHERE ts IS NULL").fetchone() or (0,)
        if invalid:
            raise ValueError(
                f"{path}: {invalid} rows have no time: expected Unix seconds or ISO 8601 in 'ts'"
            )
