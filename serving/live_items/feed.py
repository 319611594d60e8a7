"""Files of item changes, as a shop's stock system writes them: JSON Lines, CSV or Parquet.

    changes.jsonl     {"item_id": "A1", "available": false}    as PUT /v1/items takes them
    changes.csv       item_id,available,price                  an empty field keeps its value
    changes.parquet   the same columns; null keeps the value

In CSV and Parquet every other column is an attribute, or a vector if it holds lists of numbers.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .changes import STOCK_FIELDS, TEXT_FIELDS, ItemChange, make_change

BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
SUFFIXES = (".jsonl", ".csv", ".parquet")


def read_feed(file: Path) -> Iterator[ItemChange]:
    """The changes of a file, in the order of the file.

    Raises ValueError for an unknown suffix, and for an invalid change, whose line or row it names. Raises
    OSError for a file that cannot be read.
    """
    readers = dict(zip(SUFFIXES, (_read_json_lines, _read_csv, _read_parquet), strict=True))
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise ValueError(f"{file}: expected a file that ends in {', '.join(SUFFIXES)}")
    for place, fields in reader(file):
        try:
            yield make_change(fields)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}, {place}: {error}") from error


def _read_json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from error
            if not isinstance(fields, dict):
                raise ValueError(f"{file}, line {number}: expected a JSON object with item_id")
            yield f"line {number}", fields


def _read_csv(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{file}, {place}: the number of fields differs from the first line")
            try:
                yield place, _flat_fields({name: _csv_value(name, text) for name, text in row.items()})
            except ValueError as error:
                raise ValueError(f"{file}, {place}: {error}") from error


def _csv_value(name: str, text: str) -> Any:
    """The value of a field; None for an empty one."""
    if not text.strip():
        return None
    if name == "available":
        if (value := BOOLEANS.get(text.strip().lower())) is None:
            raise ValueError(f"available: {text!r} is not one of {', '.join(BOOLEANS)}")
        return value
    if name == "price":
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"price: {text!r} is not a number") from None
    return text


def _read_parquet(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise ValueError(f"{file}: {error}") from error
    first = 1
    for batch in parquet.iter_batches():
        for number, row in enumerate(batch.to_pylist(), first):
            yield f"row {number}", _flat_fields(row)
        first += batch.num_rows


def _flat_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a change from the columns of a row, without empty fields."""
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    vectors: dict[str, Any] = {}
    for name, value in row.items():
        if value is None:
            continue
        if name in ("item_id", *STOCK_FIELDS, *TEXT_FIELDS):
            fields[name] = str(value) if name == "item_id" else value
        else:
            (vectors if isinstance(value, list) else attributes)[name] = value
    return fields | {"attributes": attributes, "vectors": vectors}
