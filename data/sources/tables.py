"""Any shop's own files: `{orders,items,users,events}.{parquet,csv}` in one folder (docs/architecture.md).

`events` may also be a folder of Parquet files, as `serving.ImpressionLog` leaves them.
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

REQUIRED = ("orders", "items")
FOLDER_TABLE = "events"  # may be a folder
# Left to guess, DuckDB skips lines without a word: the first ones, where those behind are more even, and
# those that start with `#`.
CSV_OPTIONS: dict[str, Any] = {"header": True, "sample_size": -1, "delim": ",", "skip": 0, "comment": ""}


def table_files(cfg: Mapping[str, Any]) -> dict[str, Path]:
    """Canonical table → its file in `root` of the data config, or the folder of its files.

    Raises DataError when one is missing or given twice.
    """
    root = cfg.get("root")
    if not root:
        raise DataError("data.root is not set: give the folder that holds orders and items, data.root=DIR")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set data.root to the folder that holds your tables")
    found: dict[str, Path] = {}
    for name in TABLES:
        here = [p for p in (folder / f"{name}.parquet", folder / f"{name}.csv") if p.is_file()]
        if name == FOLDER_TABLE and (folder / name).is_dir():
            here.append(folder / name)
        if len(here) > 1:
            raise DataError(f"{folder}: both {here[0].name} and {here[1].name} are there; remove one of them")
        if here:
            found[name] = here[0]
        elif name in REQUIRED:
            raise DataError(f"{folder}: {name}.parquet or {name}.csv is missing; it is required")
    return found


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The canonical tables that are there, raw, with `_row`. Raises DataError for an unreadable file."""
    return {name: read_table(con, name, path) for name, path in table_files(cfg).items()}


def read_table(con: ibis.BaseBackend, name: str, path: Path) -> ir.Table:
    """The file of one canonical table, .parquet or .csv or a folder, raw, with `_row`, kept as `raw_<name>`.

    Raises DataError for an unreadable file.
    """
    try:
        parquet = path.suffix == ".parquet" or path.is_dir()
        table = engine.read_parquet(con, path) if parquet else _read_csv(con, name, path)
        # Read once: CSV is slow to parse, and row numbers hold only for one pass in file order.
        return engine.materialize(con, f"raw_{name}", table)
    except (duckdb.Error, OSError, ValueError) as error:
        said = _find_uneven_record(path) if path.suffix == ".csv" else ""
        said = said or " ".join(s.strip() for s in str(error).strip().split("\n")[:4])
        raise DataError(f"{path}: cannot be read: {said}") from error


def _read_csv(con: ibis.BaseBackend, name: str, path: Path) -> ir.Table:
    if con.name != "duckdb":
        raise ValueError("Spark reads Parquet only; write the table as Parquet, or prepare.engine=duckdb")
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().strip()
    if not first:
        raise ValueError("the file is empty, expected a header line")
    if "," not in first and (";" in first or "\t" in first):
        raise ValueError("its columns are not separated by commas")
    # The contract's columns are read as text: an id of digits keeps its zeros, and a value that does not
    # parse is a bad row with a number instead of a change of the whole column's type.
    header = con.read_csv(path, **CSV_OPTIONS)
    types = {c: "VARCHAR" for c in header.columns if c in TABLES[name]}
    table = con.read_csv(path, **CSV_OPTIONS, types=types) if types else header
    return table.mutate(_row=ibis.row_number() + 1)


def _find_uneven_record(path: Path) -> str:
    """Says which record of a CSV file has another number of fields than the header; DuckDB often cannot."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = len(next(reader))
            for fields in reader:
                if fields and len(fields) != columns:
                    return f"line {reader.line_num} has {len(fields)} fields, the header has {columns}"
    except (OSError, ValueError, StopIteration, csv.Error):
        pass  # the first error says enough
    return ""
