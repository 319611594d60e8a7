"""Any shop's own files: the canonical tables in one folder.

docs/reference/canonical_tables.md lists their columns.
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.tables.contract import TABLES, TABLES_WITH_ATTRIBUTES
from data.tables.reader import read_table
from data.tables.shared_files import separate_tables
from serving.files import is_uri
from serving.remote import RemoteError
from serving.remote_copies import local_copy
from serving.table_files import CsvFormat, TableFile, TableFileError, find_table, open_table

REQUIRED = ("orders", "items")
SIMILARITY = 0.75  # of two names, from 0 to 1; above it, one counts as a misspelling of the other


def table_files(cfg: Mapping[str, Any]) -> dict[str, TableFile]:
    """Returns canonical table → its file or folder, below `root` of the data config or named by `files`.

    Raises one DataError for all tables that are missing, given twice or in an unknown format.
    """
    folder, csv = _root_folder(cfg), _csv_format(cfg.get("csv") or {})
    files, columns = cfg.get("files") or {}, cfg.get("columns") or {}
    reject_unknown_tables(files, "files")
    reject_unknown_tables(columns, "columns")
    tables: dict[str, TableFile] = {}
    errors: list[str] = []
    for name in TABLES:
        try:
            path = _given_path(folder, name, files.get(name))
            table = find_table(folder, name, csv) if path is None else open_table(path, csv)
            mapping = map_columns(name, columns.get(name) or {})
        except (TableFileError, DataError) as error:
            errors.append(str(error))
            continue
        if table is not None:
            tables[name] = replace(table, columns=mapping.columns, integers=mapping.integers)
        elif name in REQUIRED:
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            errors.append(
                f"{folder}: {name} is missing: expected {name}.parquet, {name}.csv, {name}.csv.gz, a folder "
                f"{name}/, or data.files.{name}=FILE. Found: {found}"
            )
    if errors:
        raise DataError("\n".join(errors))
    return tables


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """Reads the canonical tables that exist, raw, with `_row`. Raises DataError for unreadable files."""
    return read_files(con, table_files(cfg))


def read_files(con: ibis.BaseBackend, files: Mapping[str, TableFile]) -> dict[str, ir.Table]:
    """Reads the canonical tables of these files, raw, with `_row`. Raises DataError for unreadable files."""
    raw: dict[str, ir.Table] = {}
    errors: list[str] = []
    for name, file in files.items():
        try:
            raw[name] = read_table(con, name, file)
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    return separate_tables(raw, files)


class ColumnMapping(NamedTuple):
    """The names and types of a table's columns in the files."""

    columns: dict[str, str]  # canonical column → its name in the files
    integers: tuple[str, ...]  # canonical columns of ids that are whole numbers


def column_error(table: str, name: str) -> str:
    """The reason why `data.columns` may not name this column of a table. "" if it may.

    A name outside the contract is an attribute, unless it looks like a misspelled column of the contract.
    """
    similar = difflib.get_close_matches(name.lower(), list(TABLES[table]), n=1, cutoff=SIMILARITY)
    if name in TABLES[table] or (table in TABLES_WITH_ATTRIBUTES and not similar):
        return ""
    expected = f"Did you mean {similar[0]}?" if similar else f"Expected {', '.join(TABLES[table])}"
    return f"{table} has no column {name}. {expected}"


def map_columns(table: str, mapping: Mapping[str, Any]) -> ColumnMapping:
    """Parse `data.columns` of a table: a name for each column, or `{column: NAME, type: integer}`.

    Raises DataError for any other setting.
    """
    columns, integers = {}, []
    for name, given in mapping.items():
        if error := column_error(table, name):
            raise DataError(f"data.columns.{table}.{name}: {error}")
        described = given if isinstance(given, Mapping) else {"column": given}
        unknown = set(described) - {"column", "type"}
        if unknown or not described.get("column") or described.get("type", "integer") != "integer":
            raise DataError(
                f"data.columns.{table}.{name} is {given}: expected the name of a column, or "
                "{column: NAME, type: integer} for ids that are whole numbers"
            )
        columns[name] = str(described["column"])
        integers += [name] if "type" in described else []
    return ColumnMapping(columns, tuple(integers))


def _root_folder(cfg: Mapping[str, Any]) -> Path:
    root = cfg.get("root")
    if not root:
        raise DataError("data.root is not set: give the folder that holds orders and items, data.root=DIR")
    folder = _local_path(str(root))
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set data.root to the folder that holds your tables")
    return folder


def _local_path(path: str) -> Path:
    """A local path: the path itself, or the local copy of a URI. Raises DataError if it cannot be read."""
    try:
        return local_copy(path)
    except RemoteError as error:
        raise DataError(str(error)) from error


def _csv_format(settings: Mapping[str, Any]) -> CsvFormat:
    try:
        texts: dict[str, Any] = {k: v if v is None else str(v) for k, v in settings.items()}
        return CsvFormat(**texts)
    except ValueError as error:
        raise DataError(f"data.csv: {error}") from error


def _given_path(folder: Path, name: str, file: str | None) -> Path | None:
    """The file that `data.files` names: below the root, unless it is an absolute path or a URI."""
    if file is None:
        return None
    path = _local_path(file) if is_uri(file) else folder / Path(file).expanduser()
    if not path.exists():
        raise TableFileError(f"{path}: there is no such file; correct data.files.{name}")
    return path


def reject_unknown_tables(setting: Mapping[str, Any], name: str) -> None:
    """Raise DataError for a key of `data.<name>` that is not a canonical table."""
    if unknown := sorted(set(setting) - set(TABLES)):
        raise DataError(f"data.{name}.{unknown[0]}: no such table, expected {', '.join(TABLES)}")
