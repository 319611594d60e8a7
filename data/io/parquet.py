"""Parquet files and folders of them, read by row groups, with errors that say which file is at fault."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError


class RowGroup(NamedTuple):
    """Rows of a row group that are read."""

    file_index: int  # position in the list of files
    group_index: int  # in that file
    num_rows: int  # that are read
    offset: int  # before them


def parquet_files(path: Path) -> list[Path]:
    """The file, or the Parquet files of a folder by name. Raises DataError where there is none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: no Parquet file is there")
    return files


def iter_slices(
    path: Path, columns: list[str] | None, start: int, stop: int, rows: int
) -> Iterator[pa.Table]:
    """Rows `start` to `stop` (exclusive) in their order, at most `rows` at a time and in memory."""
    for file_path in parquet_files(path):
        with open_parquet(file_path) as file:
            for g in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(g).num_rows
                low, high = max(start, 0), min(stop, count)
                if low < high:
                    table = read_row_group(file, file_path, g, columns)
                    for at in range(low, high, rows):
                        yield table.slice(at, min(rows, high - at))
                start, stop = start - count, stop - count


def count_rows(path: Path) -> int:
    """Rows of a file or a folder of them, from the footers."""
    counts = []
    for file_path in parquet_files(path):
        with open_parquet(file_path) as file:
            counts.append(file.metadata.num_rows)
    return sum(counts)


def column_names(path: Path) -> set[str]:
    """The columns of the first file."""
    with open_parquet(parquet_files(path)[0]) as file:
        return set(file.schema_arrow.names)


def row_groups(
    files: list[Path], columns: list[str], start: int = 0, stop: int | None = None
) -> list[RowGroup]:
    """The row groups of the rows `start` to `stop` (exclusive), file by file.

    Raises DataError for columns that are missing or of another type than in the first file.
    """
    groups: list[RowGroup] = []
    begin = 0  # of a row group, in all rows
    schema: pa.Schema | None = None
    for f, path in enumerate(files):
        with open_parquet(path) as file:
            found, meta = file.schema_arrow, file.metadata
        if missing := sorted(set(columns) - set(found.names)):
            raise DataError(f"{path}: columns {missing} are missing")
        schema = schema or found
        for name in columns:
            if found.field(name).type != schema.field(name).type:
                raise DataError(
                    f"{path}: {name} is {found.field(name).type}, but {schema.field(name).type} in "
                    f"{files[0]}. All files of a folder must agree: write them again from one schema"
                )
        for g in range(meta.num_row_groups):
            rows = meta.row_group(g).num_rows
            low = max(start - begin, 0)
            high = rows if stop is None else min(stop - begin, rows)
            if low < high:
                groups.append(RowGroup(f, g, high - low, low))
            begin += rows
    return groups


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def read_row_group(file: pq.ParquetFile, path: Path, number: int, columns: list[str] | None) -> pa.Table:
    try:
        return file.read_row_group(number, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, MemoryError):
        return error
    reason = str(error).split("\n")[0]
    if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
        return DataError(f"{path}: cannot be read: {reason}")
    return DataError(
        f"{path}: cannot be read as Parquet ({reason}). It is damaged or cut short: delete what holds it and "
        "prepare again"
    )
