"""Reads the canonical tables for all commands: preparation, experiments, monitoring, item updates.

TableFile ─ read_table ─▶ raw table with canonical names and `_row` ─ contract.conform ─▶ canonical table
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data.errors import DataError
from data.io import engine
from data.tables.contract import ATTRIBUTES_BY_PARTITION, TABLES
from data.tables.item_vectors import vector_column_names
from data.tables.row_locations import CSV_OPTIONS
from serving.column_names import SIMILARITY
from serving.table_files import (
    CsvFormat,
    TableFile,
    TableFileError,
    check_files,
    find_uneven_record,
    open_csv,
    open_table,
    utf8_remedy,
)

OTHER_DELIMITERS = (";", "\t", "|", ",")


def read_table(con: ibis.BaseBackend, name: str, file: TableFile) -> ir.Table:
    """Reads the raw rows of a canonical table with canonical names and `_row`, materialized as `raw_<name>`.

    Vectors of items are left out (data/tables/item_vectors.py reads them). `_row` counts the rows of all
    files, sorted by file name. Raises DataError for an unreadable file.
    """
    try:
        check_files(file)
    except TableFileError as error:
        raise DataError(str(error)) from error
    unread = unread_partitions(name, file)
    keys = [key for key in file.partitions if key not in unread]
    try:
        table = _read_csv(con, name, file, keys) if file.csv else engine.read_parquet(con, file, keys)
        if name == "items":
            table = table.drop(*vector_column_names(file))
        table = rename_columns(table, name, file)
        table = _whole_ids(table, file.integers)
        if file.csv:
            table = _standard_text(table, name, file.csv)
        # Read only once, because CSV is slow to parse, and row numbers are valid only within one pass.
        return _without_empty_columns(con, engine.materialize(con, f"raw_{name}", table), name)
    except (duckdb.Error, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = find_uneven_record(file) if file.csv and isinstance(error, duckdb.Error) else ""
        reason = reason or " ".join(line.strip() for line in str(error).strip().split("\n")[:4])
        if file.csv and "not utf-8" in reason.lower():
            reason = f"it is not UTF-8 ({reason}); {utf8_remedy(file.path)}"
        raise DataError(f"{file}: cannot be read: {reason}") from error


def open_file(path: Path) -> TableFile:
    """The table of a file or folder that a command names. Raises DataError where it cannot be read."""
    try:
        table = open_table(path)
        check_files(table)
        return table
    except TableFileError as error:
        raise DataError(str(error)) from error


def unread_partitions(name: str, file: TableFile) -> list[str]:
    """Partition keys of orders and events that are not columns of the contract, such as month=2026-01.

    These keys describe the storage and are not attributes.
    """
    canonical = {in_file: column for column, in_file in file.columns.items()}
    is_attribute = name in ATTRIBUTES_BY_PARTITION
    return [k for k in file.partitions if not is_attribute and canonical.get(k, k) not in TABLES[name]]


def rename_columns(table: ir.Table, name: str, file: TableFile) -> ir.Table:
    """Gives the table canonical names, by `data.columns`.

    A mapped column replaces a file's column of the same name.

    Raises DataError for a column that the file lacks.
    """
    if not file.columns:
        return table
    present = [c for c in table.columns if not c.startswith("_")]
    reject_missing_mapped(present, name, file)
    replaced = [new for new, old in file.columns.items() if new in present and new != old]
    kept = [c for c in table.columns if c not in replaced and c not in file.columns.values()]
    return table.select(*kept, **{new: table[old] for new, old in file.columns.items()})


def reject_missing_mapped(present: Sequence[str], name: str, file: TableFile) -> None:
    """Raise DataError for columns of `data.columns` that the file lacks.

    The message suggests similar columns.
    """
    missing = {new: old for new, old in file.columns.items() if old not in present}
    if missing:
        lines = [f"data.columns.{name}.{new} is '{old}'" for new, old in missing.items()]
        similar = {
            old: difflib.get_close_matches(old, present, n=1, cutoff=SIMILARITY) for old in missing.values()
        }
        hint = ", ".join(f"'{found[0]}' for '{old}'" for old, found in similar.items() if found)
        raise DataError(
            f"{file}: {'; '.join(lines)}: no such column."
            + (f" Did you mean {hint}?" if hint else "")
            + f" Found: {', '.join(present)}"
        )


def _read_csv(con: ibis.BaseBackend, name: str, file: TableFile, keys: list[str]) -> ir.Table:
    assert file.csv is not None
    if con.name != "duckdb":
        raise ValueError("Spark reads Parquet only; write the table as Parquet, or prepare.engine=duckdb")
    for path in file.files:
        check_header(path, file.csv)
    paths = [str(path) for path in file.files]
    options = CSV_OPTIONS | {"delim": file.csv.delimiter, "decimal_separator": file.csv.decimal}
    if len(paths) > 1:
        options |= {"union_by_name": True}
    options |= {"filename": engine.FILE_COLUMN} if keys else {}
    options |= {"hive_partitioning": False}
    # The contract's columns are read as text: an id of digits keeps its zeros, and a value that does not
    # parse makes its row bad instead of changing the type of the whole column.
    of_contract = {file.name_in_file(c) for c in TABLES[name]}
    table = con.read_csv(paths, **options)
    types = {c: "VARCHAR" for c in table.columns if c in of_contract}
    if types:
        table = con.read_csv(paths, **options, types=types)
    table = table.mutate(_row=ibis.row_number() + 1)
    return engine.add_partitions(table, file, keys)


def check_header(path: Path, expected: CsvFormat) -> None:
    """Raise ValueError for a CSV file with a different delimiter."""
    with open_csv(path) as text:
        header = text.readline().strip()
    if expected.delimiter in header:
        return
    counts = {delimiter: header.count(delimiter) for delimiter in OTHER_DELIMITERS}
    found = max(counts, key=lambda delimiter: counts[delimiter])
    if counts[found] and not re.fullmatch(r'"[^"]*"', header):
        shown = {"\t": "\\t"}.get(found, found)
        raise ValueError(
            f"its columns are separated by '{shown}', expected '{expected.delimiter}'; set "
            f"\"data.csv.delimiter='{shown}'\" (and \"data.csv.decimal=','\" where decimals have a comma)"
        )


@ibis.udf.scalar.builtin
def try_strptime(text: str, time_format: str) -> dt.timestamp:
    """Parses the time of a text by DuckDB's `try_strptime`. Null for another format."""


def _standard_text(table: ir.Table, name: str, csv_format: CsvFormat) -> ir.Table:
    """Rewrites numbers with a decimal point, and times as ISO 8601. Both stay text."""
    values: dict[str, ir.Value] = {}
    for c, spec in TABLES[name].items():
        if c not in table.columns or not table[c].type().is_string():
            continue
        if spec.logical_type == "number" and csv_format.decimal != ".":
            number = table[c].replace(csv_format.decimal, ".")
            # The text of the file is kept for errors.
            values[c] = ibis.ifelse(number.try_cast("float64").isnull(), table[c], number)
        if spec.logical_type == "time" and csv_format.time_format is not None:
            time = try_strptime(table[c], csv_format.time_format)
            values[c] = ibis.coalesce(time.cast("string"), table[c])
    return table.mutate(**values)


def _whole_ids(table: ir.Table, columns: Sequence[str]) -> ir.Table:
    """Rewrites whole-number ids as their digits: 17.0 becomes 17."""
    values: dict[str, ir.Value] = {}
    for c in columns:
        kind = table[c].type()
        if kind.is_floating():
            is_whole = (table[c] == table[c].floor()) & ~table[c].isnan()
            digits = ibis.ifelse(is_whole, table[c], None).cast("int64").cast("string")
            values[c] = ibis.ifelse(is_whole, digits, table[c].nullif(float("nan")).cast("string"))
        elif kind.is_string():
            values[c] = table[c].strip().re_replace(r"\.0+$", "")
    return table.mutate(**values)


def _without_empty_columns(con: ibis.BaseBackend, table: ir.Table, name: str) -> ir.Table:
    """Drops empty optional columns, which count as absent.

    Programs write empty columns with an arbitrary type: pandas makes them numbers.
    """
    optional = [c for c in table.columns if c in TABLES[name] and not TABLES[name][c].required]
    if not optional:
        return table
    values = {
        c: table[c].nullif(float("nan")) if table[c].type().is_floating() else table[c] for c in optional
    }
    counts = con.to_pyarrow(table.agg(**{c: value.count() for c, value in values.items()})).to_pylist()[0]
    return table.drop(*[c for c in optional if counts[c] == 0])
