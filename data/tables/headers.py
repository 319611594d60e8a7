"""Checks the columns of a shop's files by their headers, so that a wrong name is an error within a second."""

import csv
from collections.abc import Mapping

import pyarrow.parquet as pq

from data.errors import DataError
from data.tables.contract import reject_missing, required_columns
from data.tables.reader import check_header, reject_missing_mapped, unread_partitions
from data.tables.shared_files import own_columns
from serving.table_files import TableFile, TableFileError, check_files, open_csv


def check_headers(files: Mapping[str, TableFile]) -> dict[str, list[str]]:
    """Returns canonical table → its columns, by their canonical names.

    Raises one DataError with the faults of all tables. A header that cannot be parsed is skipped here;
    reading the table reports it.
    """
    columns: dict[str, list[str]] = {}
    errors: list[str] = []
    for name, file in files.items():
        try:
            check_files(file)
            in_file = _columns_in_files(name, file)
        except TableFileError as error:
            errors.append(str(error))
            continue
        except ValueError as error:
            errors.append(f"{file}: cannot be read: {error}")
            continue
        if in_file is None:
            continue
        present = [c for c in in_file if not c.startswith("_")]
        try:
            reject_missing_mapped(present, name, file)
            columns[name] = _canonical_names(present, file)
            reject_missing(columns[name], name, file, required_columns(name))
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    return {name: own_columns(name, present, files) for name, present in columns.items()}


def _canonical_names(present: list[str], file: TableFile) -> list[str]:
    """The names that `rename_columns` gives to the columns of a file."""
    mapped = set(file.columns.values())
    return [*(c for c in present if c not in mapped and c not in file.columns), *file.columns]


def _columns_in_files(name: str, file: TableFile) -> list[str] | None:
    """The columns of all files, and the partition keys that are read. None if a header cannot be read.

    Raises ValueError for CSV with a different delimiter.
    """
    names: dict[str, None] = {}
    for path in file.files:
        if file.csv is not None:
            try:
                check_header(path, file.csv)
                with open_csv(path) as text:
                    header = next(csv.reader(text, delimiter=file.csv.delimiter, skipinitialspace=True), [])
            except (OSError, EOFError, UnicodeDecodeError, csv.Error):
                return None
            names |= dict.fromkeys(column.strip() for column in header)
        else:
            try:
                names |= dict.fromkeys(pq.read_schema(path).names)
            except (OSError, ValueError):
                return None
    unread = unread_partitions(name, file)
    return [*names, *(key for key in file.partitions if key not in unread)]
