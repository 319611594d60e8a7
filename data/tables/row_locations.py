"""Finds the file of a row: `_row` counts the rows of all files, and errors name the file."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from serving.table_files import TableFile

MAX_REPORTED_ROWS = 5  # row numbers in an error
# By default DuckDB guesses and silently skips lines: uneven ones at the start, and those that start with `#`.
CSV_OPTIONS: dict[str, Any] = {"header": True, "sample_size": -1, "skip": 0, "comment": ""}


def describe_rows(
    file: TableFile, rows: Sequence[int], has_gaps: bool = False, count: int | None = None
) -> str:
    """Names the first rows in an error: `rows 3, 7`. In a folder: `rows 3, 7 of 01.parquet, 1 of 02.parquet`.

    Args:
        has_gaps: whether row numbers have gaps, as with Spark; then no file is named.
        count: number of all such rows; `rows` are the first of them.
    """
    is_more = (len(rows) if count is None else count) > MAX_REPORTED_ROWS
    shown, more = rows[:MAX_REPORTED_ROWS], ", …" if is_more else ""
    if len(file.files) == 1 or has_gaps:
        return f"rows {', '.join(map(str, shown))}{more}"
    by_file: dict[Path, list[str]] = {}
    for path, row in locate_rows(file, shown):
        by_file.setdefault(path, []).append(str(row))
    parts = [f"{', '.join(texts)} of {path.relative_to(file.path)}" for path, texts in by_file.items()]
    return f"rows {', '.join(parts)}{more}"


def locate_rows(file: TableFile, rows: Sequence[int]) -> list[tuple[Path, int]]:
    """Returns the file and the row in the file, from 1, of each `_row`. Counts the rows of all files."""
    ends = list(accumulate(_count_rows(file, path) for path in file.files))
    located = [(bisect_left(ends, row), row) for row in rows]
    return [(file.files[k], row - (ends[k - 1] if k else 0)) for k, row in located]


def _count_rows(file: TableFile, path: Path) -> int:
    if file.csv is None:
        return int(pq.read_metadata(path).num_rows)
    with duckdb.connect() as con:
        options = ", ".join(f"{name} = {value!r}" for name, value in CSV_OPTIONS.items())
        query = f"SELECT count(*) FROM read_csv(?, delim = ?, all_varchar = true, {options})"
        [(count,)] = con.execute(query, [str(path), file.csv.delimiter]).fetchall()
    return int(count)
