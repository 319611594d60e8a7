"""Reads Parquet files and folders by row groups; errors name the file."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError

SAMPLED_ROWS = 128  # rows of a table of `sample_rows`


class RowGroup(NamedTuple):
    """A row group of a file, and the range of its rows to read."""

    file_index: int  # position in the list of files
    group_index: int  # position in the file
    num_rows: int  # rows that are read
    offset: int  # rows of the group before them


def parquet_files(path: Path) -> list[Path]:
    """The file, or the Parquet files of a folder by name. Raises DataError where there is none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(f"{path}: no Parquet file found")
    return files


def iter_slices(
    path: Path, columns: list[str] | None, start: int, stop: int, rows: int
) -> Iterator[pa.Table]:
    """Yields the rows `start` to `stop` (exclusive) in file order, at most `rows` at a time."""
    for file_path in parquet_files(path):
        with open_parquet(file_path) as file:
            for index in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(index).num_rows
                low, high = max(start, 0), min(stop, count)
                if low < high:
                    table = read_row_group(file, file_path, index, columns)
                    for offset in range(low, high, rows):
                        yield table.slice(offset, min(rows, high - offset))
                start, stop = start - count, stop - count


def sample_rows(path: Path, max_rows: int) -> Iterator[pa.Table]:
    """Yields at most `max_rows` rows of a file, evenly by position, in tables of a few hundred rows."""
    n_rows = count_rows(path)
    step = max(1, -(-n_rows // max_rows))
    start = 0
    for table in iter_slices(path, None, 0, n_rows, SAMPLED_ROWS * step):
        rows = np.arange(-start % step, len(table), step)
        start += len(table)
        if len(rows):
            yield table.take(pa.array(rows)).combine_chunks()


def count_rows(path: Path) -> int:
    """The number of rows of a file or of a folder of files, from the footers."""
    counts = []
    for file_path in parquet_files(path):
        with open_parquet(file_path) as file:
            counts.append(file.metadata.num_rows)
    return sum(counts)


def column_names(path: Path) -> list[str]:
    """The columns of the first file, in order."""
    with open_parquet(parquet_files(path)[0]) as file:
        names: list[str] = file.schema_arrow.names
        return names


def row_groups(
    files: list[Path], columns: list[str], start: int = 0, stop: int | None = None
) -> list[RowGroup]:
    """The row groups of the rows `start` to `stop` (exclusive), file by file.

    Raises DataError for columns that are missing or of another type than in the first file.
    """
    groups: list[RowGroup] = []
    group_start = 0  # row number over all files
    first_schema: pa.Schema | None = None
    for file_index, path in enumerate(files):
        with open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        if missing := sorted(set(columns) - set(schema.names)):
            raise DataError(f"{path}: columns {missing} are missing")
        first_schema = first_schema or schema
        for name in columns:
            if schema.field(name).type != first_schema.field(name).type:
                raise DataError(
                    f"{path}: {name} is {schema.field(name).type}, but {first_schema.field(name).type} in "
                    f"{files[0]}. All files of a folder must agree: write them again from one schema"
                )
        for group_index in range(metadata.num_row_groups):
            count = metadata.row_group(group_index).num_rows
            low = max(start - group_start, 0)
            high = count if stop is None else min(stop - group_start, count)
            if low < high:
                groups.append(RowGroup(file_index, group_index, num_rows=high - low, offset=low))
            group_start += count
    return groups


def open_parquet(path: Path) -> pq.ParquetFile:
    """The open file, with page checksums verified. Raises DataError where it cannot be read."""
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _describe_error(path, error) from error


def read_row_group(file: pq.ParquetFile, path: Path, index: int, columns: list[str] | None) -> pa.Table:
    """A row group of the open file `path`. Raises DataError where it cannot be read."""
    try:
        return file.read_row_group(index, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _describe_error(path, error) from error


def _describe_error(path: Path, error: Exception) -> Exception:
    if isinstance(error, MemoryError):
        return error
    reason = str(error).split("\n")[0]
    if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
        return DataError(f"{path}: cannot be read: {reason}")
    return DataError(
        f"{path}: cannot be read as Parquet ({reason}). It is damaged or cut short: delete its folder and "
        "prepare again"
    )
