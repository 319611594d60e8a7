"""Reads the canonical tables (Parquet or CSV) in batches, without a query engine, to fill a store."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ..column_names import suggest_columns
from ..table_files import OFFSET, STANDARD_OFFSET, CsvFormat, TableFile, find_uneven_record

BATCH_ROWS = 262_144  # of a table; larger batches make fewer chunks by user
CSV_BLOCK_BYTES = 16 * 2**20
NUMBERS = ("quantity", "price")  # columns that CSV holds as text; `ts` is the other one


class TableBatch(NamedTuple):
    """Consecutive rows of a file."""

    file: Path
    first_row: int  # from 1
    rows: pa.RecordBatch


def table_batches(table: TableFile, columns: Sequence[str]) -> Iterator[TableBatch]:
    """The rows of a table with these columns, file by file, under their canonical names.

    Ids and kinds of CSV are text.

    Raises ValueError, which names the file, for missing columns, unreadable files and cells that cannot be
    parsed.
    """
    for file in table.files:
        first_row = 1
        try:
            for batch in (
                _csv_batches(table, file, columns) if table.csv else _parquet_batches(table, file, columns)
            ):
                yield TableBatch(file, first_row, _with_whole_ids(batch, table.integers))
                first_row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            uneven = find_uneven_record(table) if table.csv else ""
            raise ValueError(f"{file}: cannot be read: {uneven or str(error).splitlines()[0]}") from error


def count_rows(table: TableFile) -> int:
    """Returns a table's number of rows; 0 for CSV, where the number is unknown before reading."""
    return 0 if table.csv else sum(pq.read_metadata(file).num_rows for file in table.files)


def _parquet_batches(table: TableFile, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    names = {name: table.name_in_file(name) for name in columns}
    with pq.ParquetFile(file) as source:
        _require_columns(file, names, source.schema_arrow.names)
        for batch in source.iter_batches(BATCH_ROWS, columns=list(names.values())):
            yield pa.RecordBatch.from_arrays([batch[name] for name in names.values()], list(names))


def _csv_batches(table: TableFile, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    assert table.csv is not None
    names = {name: table.name_in_file(name) for name in columns}
    parse = pa_csv.ParseOptions(delimiter=table.csv.delimiter, newlines_in_values=True)
    read = pa_csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names.values(), pa.string()), strings_can_be_null=True, null_values=[""]
    )
    with pa_csv.open_csv(file, read, parse, convert) as source:
        _require_columns(file, names, source.schema.names)
        row = 1
        for batch in source:
            parsed = [_parse(batch[names[name]], name, table.csv, file, row) for name in columns]
            yield pa.RecordBatch.from_arrays(parsed, list(columns))
            row += batch.num_rows


def _require_columns(file: Path, names: Mapping[str, str], found: Sequence[str]) -> None:
    """Raise ValueError, with suggestions, for a file that lacks `names` (canonical → in the files)."""
    missing = [name for name in names if names[name] not in found]
    if not missing:
        return
    listed = ", ".join(name if names[name] == name else f"{names[name]} ({name})" for name in missing)
    text = f"{file}: no column {listed} (docs/reference/canonical_tables.md). Found: {', '.join(found)}"
    similar = suggest_columns(missing, [name for name in found if name not in names.values()])
    pairs = " ".join(f"'{name}={column}'" for name, column in similar.items())
    raise ValueError(f"{text}. By another name? --column {pairs}" if similar else text)


def _with_whole_ids(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    """Writes ids of the batch that are whole numbers as digits: 17.0 becomes 17."""
    for name in columns:
        ids = batch[name]
        if pa.types.is_floating(ids.type):
            ids = pc.if_else(pc.is_finite(ids), ids, None).cast(pa.int64())  # raises for a fraction
        elif pa.types.is_string(ids.type):
            ids = pc.replace_substring_regex(pc.utf8_trim_whitespace(ids), r"\.0+$", "")
        batch = batch.set_column(batch.schema.names.index(name), name, ids)
    return batch


def _parse(text: pa.Array, name: str, csv: CsvFormat, file: Path, first_row: int) -> pa.Array:
    """The cells of a CSV column: times as Unix seconds, numbers as float64, other columns unchanged."""
    if name != "ts" and name not in NUMBERS:
        return text
    parse = partial(_parse_times if name == "ts" else _parse_numbers, csv=csv)
    try:
        return parse(text)
    except pa.ArrowInvalid:
        for row, value in enumerate(text.to_pylist(), start=first_row):
            try:
                parse(pa.array([value], pa.string()))
            except pa.ArrowInvalid:
                raise ValueError(f"{file}: row {row}: {name} is {value!r}, which cannot be read") from None
        raise


def _parse_numbers(text: pa.Array, csv: CsvFormat) -> pa.Array:
    text = text if csv.decimal == "." else pc.replace_substring(text, csv.decimal, ".")
    return pc.utf8_trim_whitespace(text).cast(pa.float64())


def _parse_times(text: pa.Array, csv: CsvFormat) -> pa.Array:
    if csv.time_format is None:
        return parse_times(text)
    times = pc.strptime(text, format=csv.time_format, unit="s", error_is_null=True)
    return pc.coalesce(times.cast(pa.int64()), parse_times(pc.if_else(pc.is_valid(times), None, text)))


def parse_times(text: pa.Array) -> pa.Array:
    """Parses texts in Unix seconds or ISO 8601 to Unix seconds, int64.

    The time zone may follow a blank; without a zone, times are UTC.
    """
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
