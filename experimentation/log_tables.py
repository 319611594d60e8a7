"""DuckDB tables of an impression log and of the shop's orders and items, for all analyses."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from serving.table_files import (
    OFFSET,
    STANDARD_OFFSET,
    TableFile,
    TableFileError,
    check_files,
    find_uneven_record,
    open_table,
)

REQUIRED_LOG_COLUMNS = {
    "request_id", "user_id", "item_id", "ts", "kind", "tier", "bundle_version", "arm", "value",
}  # fmt: skip
LOG_NUMBERS = ("ts", "value", "withhold", "expected_value", "latency_ms")
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

# Without these DuckDB guesses, and silently skips lines.
CSV_OPTIONS = (
    "header = true, sample_size = -1, skip = 0, comment = '', all_varchar = true, union_by_name = true, "
    "hive_partitioning = false"
)


def set_utc(con: duckdb.DuckDBPyConnection) -> None:
    """Make DuckDB read times without a zone as UTC."""
    with suppress(duckdb.Error):  # other zones than UTC exist only where DuckDB has its ICU extension
        con.execute("SET TimeZone = 'UTC'")


def log_time_span(events: Path) -> tuple[int, int]:
    """Unix seconds of the first and the last event of a log. Raises ValueError for an empty one."""
    with duckdb.connect() as con:
        _create_log_view(con, events)
        first, last = con.execute("SELECT min(ts), max(ts) FROM log").fetchone() or (None, None)
    if first is None:
        raise ValueError(f"{events} holds no events")
    return int(first), int(last)


def create_events_view(con: duckdb.DuckDBPyConnection, path: Path, experiment: str | None) -> None:
    """Create the view `events` of a log.

    `arm` becomes the arm of the experiment, or `all` without one. Optional columns that the log lacks are
    null. Raises ValueError if the log lacks a required column.
    """
    names = _create_log_view(con, path)
    if missing := REQUIRED_LOG_COLUMNS - names:
        raise ValueError(f"{path} is not an impression log: it has no column {', '.join(sorted(missing))}")
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


def _create_log_view(con: duckdb.DuckDBPyConnection, path: Path) -> set[str]:
    """Create the view `log` of an impression log; returns its columns."""
    try:
        table = open_table(path)
    except TableFileError as error:
        raise ValueError(
            f"{path} has no Parquet files: expected the folder that --log of the service names ({error})"
        ) from error
    if table.csv is not None:
        raise ValueError(f"{path} is CSV: an impression log is Parquet, in the folder that --log names")
    names = _create_view(con, "log", table)
    _reject_bad_rows(
        con,
        "log",
        table,
        {f"{name} is not a finite number": _no_number(name) for name in LOG_NUMBERS if name in names},
    )
    return names


def _create_view(con: duckdb.DuckDBPyConnection, name: str, table: TableFile) -> set[str]:
    """Create a view of a table's files and return its columns; columns of CSV files are text.

    Raises ValueError for files that cannot be read.
    """
    check_files(table)
    _read_files(con, table, table.files).create_view(name, replace=True)
    return {column for column, *_ in con.execute(f"DESCRIBE {name}").fetchall()}


def _read_files(
    con: duckdb.DuckDBPyConnection, table: TableFile, files: Sequence[Path]
) -> duckdb.DuckDBPyRelation:
    paths: Any = [str(file) for file in files]  # its stub knows a single file only
    if table.csv is None:
        return con.read_parquet(paths, hive_partitioning=False, union_by_name=True)
    literals = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    try:
        return con.sql(f"FROM read_csv([{literals}], delim = '{table.csv.delimiter}', {CSV_OPTIONS})")
    except duckdb.Error as error:
        raise ValueError(f"{table}: cannot be read: {find_uneven_record(table) or error}") from error


def _no_number(name: str) -> str:
    """The SQL condition that a value is neither null nor a finite number."""
    return f"{name} IS NOT NULL AND NOT coalesce(isfinite(try_cast({name} AS DOUBLE)), false)"


def _reject_bad_rows(
    con: duckdb.DuckDBPyConnection, view: str, table: TableFile, conditions: Mapping[str, str]
) -> None:
    """Raise ValueError, with the file and the row, for a row that meets a condition.

    `conditions` maps a reason to an SQL condition.
    """
    if not conditions:
        return
    sums = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions.values())
    try:
        (counts,) = con.execute(f"SELECT {sums} FROM {view}").fetchall()
    except duckdb.Error as error:
        reason = find_uneven_record(table) if table.csv else ""
        raise ValueError(f"{table}: cannot be read: {reason or error}") from error
    for (reason, condition), count in zip(conditions.items(), counts, strict=True):
        for file in table.files if count else ():
            _read_files(con, table, [file]).create_view("one_file", replace=True)
            numbered = "SELECT row_number() OVER () AS row_of_file, * FROM one_file"
            first = con.execute(f"SELECT min(row_of_file) FROM ({numbered}) WHERE {condition}").fetchall()[0][
                0
            ]
            if first is not None:
                others = f", and {count - 1:,} other rows of the table" if count > 1 else ""
                raise ValueError(f"{file}: row {first}: {reason}{others}")


def unfinished_journal_notes(path: Path) -> Iterator[str]:
    """Yield a note if the log has journals that are not yet converted to Parquet files."""
    if count := len([*path.glob("*.journal")]) if path.is_dir() else 0:
        yield f"{count} journals of the log are not finished: their rows are missing from this analysis."


def create_shop_table(con: duckdb.DuckDBPyConnection, name: str, path: Path | None) -> None:
    """Create the table `orders` or `items` with its columns; without a file the table is empty.

    Raises ValueError for files that cannot be read, a missing column, a row without a time, and a number that
    is not finite.
    """
    columns = {column: SHOP_COLUMN_TYPES.get(column, "VARCHAR") for column in SHOP_TABLE_COLUMNS[name]}
    if path is None:
        nulls = ", ".join(f"NULL::{kind} AS {column}" for column, kind in columns.items())
        con.execute(f"CREATE VIEW {name} AS SELECT {nulls} WHERE false")
        return
    table = open_table(path)
    found = _create_view(con, f"raw_{name}", table)
    missing = [column for column in columns if column not in found]
    if required := [column for column in missing if column not in OPTIONAL_SHOP_COLUMNS]:
        raise ValueError(f"{path}: column {', '.join(required)} is missing; found {', '.join(sorted(found))}")
    iso = f"regexp_replace(ts::VARCHAR, '{OFFSET}', '{STANDARD_OFFSET}')"
    seconds = f"coalesce(try_cast(ts::VARCHAR AS BIGINT), epoch(try_cast({iso} AS TIMESTAMPTZ))::BIGINT)"
    casts = ", ".join(
        f"{seconds} AS ts"
        if column == "ts"
        else f"{'NULL' if column in missing else column}::{kind} AS {column}"
        for column, kind in columns.items()
    )
    conditions = {
        f"{column} is not a finite number": _no_number(column)
        for column in columns
        if SHOP_COLUMN_TYPES.get(column) == "DOUBLE" and column not in missing
    }
    if "ts" in columns:
        conditions["ts is no time: expected Unix seconds or ISO 8601"] = f"{seconds} IS NULL"
    _reject_bad_rows(con, f"raw_{name}", table, conditions)
    con.execute(f"CREATE TEMP TABLE {name} AS SELECT {casts} FROM raw_{name}")
