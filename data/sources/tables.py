"""Any shop's own files: `{orders,items,users,events}.{parquet,csv}` in one folder (docs/architecture.md).

`events` may also be a folder of Parquet files, as `serving.ImpressionLog` writes them.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.io import engine
from data.tables.contract import TABLES
from data.tables.item_vectors import vector_column_names

REQUIRED = ("orders", "items")
FOLDER_TABLE = "events"  # may be a folder
# By default DuckDB guesses and silently skips lines: uneven ones at the start, and those that start with `#`.
CSV_OPTIONS: dict[str, Any] = {"header": True, "sample_size": -1, "delim": ",", "skip": 0, "comment": ""}


def table_files(cfg: Mapping[str, Any]) -> dict[str, Path]:
    """Canonical table → its file in `root` of the data config, or the folder of its files.

    Raises DataError for a table that is missing or given twice.
    """
    root = cfg.get("root")
    if not root:
        raise DataError("data.root is not set: give the folder that holds orders and items, data.root=DIR")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set data.root to the folder that holds your tables")
    paths: dict[str, Path] = {}
    for name in TABLES:
        candidates = [p for p in (folder / f"{name}.parquet", folder / f"{name}.csv") if p.is_file()]
        if name == FOLDER_TABLE and (folder / name).is_dir():
            candidates.append(folder / name)
        if len(candidates) > 1:
            first, second = (path.name for path in candidates[:2])
            raise DataError(f"{folder}: both {first} and {second} exist; remove one of them")
        if candidates:
            paths[name] = candidates[0]
        elif name in REQUIRED:
            raise DataError(f"{folder}: {name}.parquet or {name}.csv is missing; it is required")
    return paths


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The canonical tables that exist, raw, with `_row`. Raises DataError for an unreadable file."""
    return {name: read_table(con, name, path) for name, path in table_files(cfg).items()}


def read_table(con: ibis.BaseBackend, name: str, path: Path) -> ir.Table:
    """The file (.parquet, .csv or a folder) of a canonical table, raw, with `_row`, kept as `raw_<name>`.

    It lacks the vectors of items, which do not pass through the engine (data/tables/item_vectors.py). Raises
    DataError for an unreadable file.
    """
    try:
        is_parquet = path.suffix == ".parquet" or path.is_dir()
        table = engine.read_parquet(con, path) if is_parquet else _read_csv(con, name, path)
        if name == "items":
            table = table.drop(*vector_column_names(path))
        # Read once: CSV is slow to parse, and row numbers are valid for a single pass in file order.
        return engine.materialize(con, f"raw_{name}", table)
    except (duckdb.Error, OSError, ValueError) as error:
        reason = _find_uneven_record(path) if path.suffix == ".csv" else ""
        reason = reason or " ".join(line.strip() for line in str(error).strip().split("\n")[:4])
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _read_csv(con: ibis.BaseBackend, name: str, path: Path) -> ir.Table:
    if con.name != "duckdb":
        raise ValueError("Spark reads Parquet only; write the table as Parquet, or prepare.engine=duckdb")
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline().strip()
    if not header:
        raise ValueError("the file is empty, expected a header line")
    if "," not in header and (";" in header or "\t" in header):
        raise ValueError("its columns are not separated by commas")
    # The contract's columns are read as text: an id of digits keeps its zeros, and a value that does not
    # parse makes its row bad instead of changing the type of the whole column.
    table = con.read_csv(path, **CSV_OPTIONS)
    types = {c: "VARCHAR" for c in table.columns if c in TABLES[name]}
    if types:
        table = con.read_csv(path, **CSV_OPTIONS, types=types)
    return table.mutate(_row=ibis.row_number() + 1)


def _find_uneven_record(path: Path) -> str:
    """The record of a CSV file whose number of fields is not the header's, or ""; DuckDB often names none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = len(next(reader))
            for fields in reader:
                if fields and len(fields) != columns:
                    return f"line {reader.line_num} has {len(fields)} fields, the header has {columns}"
    except (OSError, ValueError, StopIteration, csv.Error):
        pass  # the caller reports the first error
    return ""
