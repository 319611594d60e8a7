"""Vectors of items: columns of the table `items` with lists of numbers, all of one length.

Vectors do not pass through the engine, which would copy them several times. Preparation checks them in one
pass over the file and reads them in a second pass.

    items.parquet  embedding  list<float>      [0.1, …]    16 numbers, or null where an item has none
    items.csv      embedding  "[0.1, 0.2, …]"  the same as text
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import DataError
from data.tables.contract import ITEMS
from data.tables.row_locations import MAX_REPORTED_ROWS, describe_rows
from serving.table_files import TableFile, open_csv

BATCH_ROWS = 16_384
VECTOR_TYPE = pa.list_(pa.float32())


class VectorColumn(NamedTuple):
    """A vector column: each row has `dim` numbers or no vector."""

    name: str
    dim: int


def vector_column_names(table_file: TableFile) -> list[str]:
    """The further columns of the items that hold lists of numbers, in the order of the first file.

    In CSV, a vector column's first value starts with `[` and ends with `]`. An unreadable file gives no
    columns; its reader reports the error.
    """
    try:
        if table_file.csv:
            return _csv_vector_names(table_file)
        fields = [field for field in pq.read_schema(table_file.files[0]) if field.name not in ITEMS]
        return [field.name for field in fields if _is_number_list(field.type)]
    except (pa.ArrowException, OSError, EOFError, ValueError, csv.Error):
        return []


def check_vectors(table_file: TableFile, names: Sequence[str]) -> list[VectorColumn]:
    """The vector columns `names` of an items file that are not empty, with their dimensions.

    Raises DataError, which names the rows, for vectors of different lengths and for numbers that are not
    finite. A null or an empty list is a missing vector.
    """
    lengths: dict[str, Counter[int]] = {name: Counter() for name in names}
    first_rows: dict[tuple[str, int], list[int]] = {}
    bad_rows: dict[str, list[int]] = {name: [] for name in names}
    start = 0
    for batch in _read_batches(table_file, names) if names else ():
        for name in names:
            column = batch[name]
            length = _lengths(column)
            for value, count in zip(*np.unique(length[length > 0], return_counts=True), strict=True):
                lengths[name][int(value)] += int(count)
                rows = first_rows.setdefault((name, int(value)), [])
                rows += (start + 1 + np.flatnonzero(length == value)[:MAX_REPORTED_ROWS]).tolist()
            parents = pc.list_parent_indices(column).to_numpy()
            is_bad = ~np.isfinite(_numbers(column))
            bad_rows[name] += (start + 1 + np.unique(parents[is_bad])).tolist()
        start += batch.num_rows
    for name in names:
        _reject_bad_vectors(table_file, name, lengths[name], first_rows, bad_rows[name])
    return [VectorColumn(name, next(iter(lengths[name]))) for name in names if lengths[name]]


def read_unit_vectors(
    table_file: TableFile, columns: Sequence[VectorColumn], item_ids: pa.Array
) -> np.ndarray:
    """Reads the vectors of `item_ids` [n] (distinct): float32 [n, E], zeros where an item has none.

    Each column is scaled to unit length, and the columns stand side by side. The first row of a repeated id
    counts. `columns` are of `check_vectors`.
    """
    out = np.zeros((len(item_ids), sum(column.dim for column in columns)), np.float32)
    is_filled = np.zeros(len(item_ids), bool)
    if not columns:
        return out
    item_id = table_file.name_in_file("item_id")
    for batch in _read_batches(table_file, [item_id, *(column.name for column in columns)]):
        ids = batch[item_id].cast(pa.string())
        row = pc.fill_null(pc.index_in(ids, value_set=item_ids), -1).to_numpy(zero_copy_only=False)
        _, first = np.unique(row, return_index=True)
        first = np.sort(first[(row[first] >= 0) & ~is_filled[row[first]]])
        out[row[first]] = unit_vectors(batch.take(pa.array(first)), columns)
        is_filled[row[first]] = True
    return out


def unit_vectors(table: pa.Table | pa.RecordBatch, columns: Sequence[VectorColumn]) -> np.ndarray:
    """Returns the vectors of n rows: float32 [n, E], zeros where a vector is missing or zero itself.

    Each column is scaled to unit length, and the columns stand side by side.
    """
    parts = []
    for column in columns:
        lists = table[column.name]
        lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
        vectors = np.zeros((len(lists), column.dim), np.float64)
        vectors[_lengths(lists) > 0] = _numbers(lists).reshape(-1, column.dim)
        largest = np.abs(vectors).max(1, keepdims=True, initial=0)
        vectors /= np.where(largest > 0, largest, 1)  # otherwise the squares of huge numbers overflow
        norm = np.sqrt((vectors**2).sum(1, keepdims=True))
        parts.append((vectors / np.where(norm > 0, norm, 1)).astype(np.float32))
    return np.concatenate(parts, axis=1) if parts else np.zeros((table.num_rows, 0), np.float32)


def vector_lists(vectors: np.ndarray) -> pa.ChunkedArray:
    """Turns float32 [n, E] into lists, in chunks whose offsets fit 32 bits."""
    n, dim = vectors.shape
    chunks = []
    for start in range(0, max(n, 1), BATCH_ROWS):
        block = vectors[start : start + BATCH_ROWS]
        offsets = pa.array(np.arange(len(block) + 1) * dim, pa.int32())
        chunks.append(pa.ListArray.from_arrays(offsets, pa.array(block.reshape(-1), pa.float32())))
    return pa.chunked_array(chunks, VECTOR_TYPE)


def read_vector_columns(table_file: TableFile, names: Sequence[str]) -> pa.Table:
    """The raw vector columns `names` of the items: lists of float32, in file order."""
    batches = list(_read_batches(table_file, names))
    types = pa.schema([(name, VECTOR_TYPE) for name in names])
    return pa.Table.from_batches([batch.cast(types) for batch in batches], types)


def _is_number_list(kind: pa.DataType) -> bool:
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(kind) for check in is_list):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _read_batches(table_file: TableFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Batches of these columns of the files: vectors as lists, other columns unchanged."""
    read = _read_csv_batches if table_file.csv else _read_parquet_batches
    for path in table_file.files:
        yield from read(table_file, path, names)


def _read_parquet_batches(
    table_file: TableFile, path: Path, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    with ExitStack() as stack:
        if any(pa.types.is_fixed_size_list(field.type) for field in pq.read_schema(path)):
            # Arrow cannot read fixed-size lists if some are null.
            con = stack.enter_context(duckdb.connect())
            quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in names)
            query = con.execute(f"SELECT {quoted} FROM read_parquet(?)", [str(path)])
            batches: Any = query.to_arrow_reader(BATCH_ROWS)
        else:
            file = stack.enter_context(pq.ParquetFile(path))
            batches = file.iter_batches(BATCH_ROWS, columns=list(names))
        for batch in batches:
            columns = [
                column.cast(pa.list_(column.type.value_type)) if _is_number_list(column.type) else column
                for column in batch.select(names).columns
            ]
            yield pa.RecordBatch.from_arrays(columns, list(names))


def _csv_vector_names(table_file: TableFile) -> list[str]:
    with open_csv(table_file.files[0]) as file:
        reader = csv.reader(file, delimiter=_delimiter(table_file))
        header = next(reader, [])
        undecided = {c: name for c, name in enumerate(header) if name not in ITEMS}
        names = []
        for fields in reader:
            for c in [c for c in undecided if c < len(fields) and fields[c].strip()]:
                text, name = fields[c].strip(), undecided.pop(c)
                names += [name] if text.startswith("[") and text.endswith("]") else []
            if not undecided:
                break
    return [name for name in header if name in names]


def _delimiter(table_file: TableFile) -> str:
    return table_file.csv.delimiter if table_file.csv else ","


def _read_csv_batches(table_file: TableFile, path: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    item_id = table_file.name_in_file("item_id")
    types = [pa.string() if name == item_id else pa.list_(pa.float64()) for name in names]
    with open_csv(path) as file:
        rows: list[list[object]] = []
        reader = csv.DictReader(file, delimiter=_delimiter(table_file))
        for number, fields in enumerate(reader, start=1):
            texts = {name: fields[name] for name in names}
            rows.append(
                [
                    t or None if n == item_id else _numbers_of_text(path, n, t, number)
                    for n, t in texts.items()
                ]
            )
            if len(rows) == BATCH_ROWS:
                yield _record_batch(rows, names, types)
                rows = []
        yield _record_batch(rows, names, types)


def _record_batch(
    rows: list[list[object]], names: Sequence[str], types: Sequence[pa.DataType]
) -> pa.RecordBatch:
    arrays = [pa.array([row[c] for row in rows], kind) for c, kind in enumerate(types)]
    return pa.RecordBatch.from_arrays(arrays, list(names))


def _numbers_of_text(path: Path, name: str, text: str | None, row: int) -> list[float] | None:
    """The numbers of a vector. None for an empty cell."""
    if not (text or "").strip():
        return None
    try:
        numbers = json.loads(text or "")
        return [math.nan if number is None else float(number) for number in numbers]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: column '{name}' is '{(text or '')[:40]}', expected a list of numbers, [0.1, 0.2] "
            f"(row {row}). Correct it, or name the column in features.ignore_columns"
        ) from error


def _lengths(lists: pa.Array) -> np.ndarray:
    """The lengths of lists: int64 [n], 0 for null."""
    return pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(lists: pa.Array) -> np.ndarray:
    """The numbers of all lists, float64; NaN for null."""
    values = lists.flatten()
    values = values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
    return pc.fill_null(values.cast(pa.float64()), math.nan).to_numpy(zero_copy_only=False)


def _reject_bad_vectors(
    table_file: TableFile,
    name: str,
    lengths: Counter[int],
    first_rows: dict[tuple[str, int], list[int]],
    not_finite: list[int],
) -> None:
    """Raise DataError for vectors of several lengths or with numbers that are not finite."""
    remedy = "Correct them, make them null, or name the column in features.ignore_columns"
    if len(lengths) > 1:
        described = [
            f"{length} numbers in {count:,} rows ({describe_rows(table_file, rows, count=count)})"
            for length, count in lengths.most_common()
            if (rows := first_rows[name, length])
        ]
        raise DataError(
            f"{table_file}: column '{name}' has vectors of different lengths: "
            f"{'; '.join(described[:4])}. {remedy}"
        )
    if not_finite:
        listed = describe_rows(table_file, not_finite)
        raise DataError(
            f"{table_file}: column '{name}' has vectors with numbers that are null or not finite: "
            f"{len(not_finite):,} rows ({listed}). {remedy}"
        )
