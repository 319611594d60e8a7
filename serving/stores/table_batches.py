"""Batches of the canonical tables, Parquet or CSV, without a query engine: to fill a store from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..table_files import OFFSET, STANDARD_OFFSET, TableFile

BATCH_ROWS = 262_144  # of a table; larger batches make fewer chunks by user
CSV_BLOCK_BYTES = 16 * 2**20
NUMBERS = ("quantity", "price")  # columns that CSV holds as text; `ts` is the other one


class TableBatch(NamedTuple):
    """Consecutive rows of a file."""

    file: Path
    first_row: int  # from 1
    rows: pa.RecordBatch


def table_batches(table: TableFile, columns: Sequence[str]) -> Iterator[TableBatch]:
    """The rows of a table with these columns, file by file; ids and kinds of CSV as text.

    Raises ValueError that names the file for columns that are missing, files that cannot be read, and cells
    that do not parse.
    """
    for file in table.files:
        first_row = 1
        try:
            for batch in _csv_batches(table, file, columns) if table.csv else _parquet_batches(file, columns):
                yield TableBatch(file, first_row, batch)
                first_row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot be read: {str(error).splitlines()[0]}") from error


def count_rows(table: TableFile) -> int:
    """Rows of a table of Parquet files; 0 for CSV, which must be read to know."""
    return 0 if table.csv else sum(pq.read_metadata(file).num_rows for file in table.files)


def _parquet_batches(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as source:
        _require_columns(file, columns, source.schema_arrow.names)
        yield from source.iter_batches(BATCH_ROWS, columns=list(columns))


def _csv_batches(table: TableFile, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    assert table.csv is not None
    parse = pa_csv.ParseOptions(delimiter=table.csv.delimiter, newlines_in_values=True)
    read = pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=True, null_values=[""]
    )
    with pa_csv.open_csv(file, read, parse, convert) as source:
        _require_columns(file, columns, source.schema.names)
        row = 1
        for batch in source:
            batch = batch.select(list(columns))
            parsed = [_parse(batch[name], name, file, row) for name in columns]
            yield pa.RecordBatch.from_arrays(parsed, list(columns))
            row += batch.num_rows


def _require_columns(file: Path, columns: Sequence[str], found: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in found]:
        raise ValueError(f"{file}: no column {', '.join(missing)} (docs/architecture.md, canonical tables)")


def _parse(text: pa.Array, name: str, file: Path, first_row: int) -> pa.Array:
    """The cells of a CSV column: times as Unix seconds, numbers as float64, others as they are."""
    if name != "ts" and name not in NUMBERS:
        return text
    parse = parse_times if name == "ts" else _parse_numbers
    try:
        return parse(text)
    except pa.ArrowInvalid:
        for row, value in enumerate(text.to_pylist(), start=first_row):
            try:
                parse(pa.array([value], pa.string()))
            except pa.ArrowInvalid:
                raise ValueError(f"{file}: row {row}: {name} is {value!r}, which cannot be read") from None
        raise


def _parse_numbers(text: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(text).cast(pa.float64())


def parse_times(text: pa.Array) -> pa.Array:
    """Unix seconds, int64, of texts of Unix seconds or ISO 8601, a zone also after a blank; else UTC."""
    text = pc.utf8_trim_whitespace(text)
    is_number = pc.match_substring_regex(text, r"^-?\d+(\.\d+)?$")
    seconds = pc.floor(pc.if_else(is_number, text, None).cast(pa.float64())).cast(pa.int64())
    iso = pc.if_else(is_number, None, text)
    iso = pc.replace_substring_regex(iso, r"\s*(?:UTC|GMT)$", "Z")
    iso = pc.replace_substring_regex(iso, r"^(\d{4}-\d{2}-\d{2})$", r"\1T00:00:00")
    iso = pc.replace_substring_regex(iso, OFFSET, STANDARD_OFFSET)
    has_zone = pc.match_substring_regex(iso, r"(Z|[+-]\d{2}(:\d{2})?)$")
    has_zone = pc.and_(has_zone, pc.match_substring_regex(iso, r":"))  # 2026-02 ends like a zone
    iso = pc.if_else(has_zone, iso, pc.binary_join_element_wise(iso, "Z", ""))
    times = iso.cast(pa.timestamp("us", "UTC")).cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.int64())
    return pc.coalesce(seconds, times)
