"""Rows of a Parquet file → checkouts, and slates → rows. What `python -m serving batch` reads and writes.

Row 1 is the first of the file.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..checkout import Checkout, Event, Line, Slate

TEXT, WHOLE, NUMBER = pa.string(), pa.int64(), pa.float64()
INPUT: dict[str, pa.DataType] = {
    "user_id": TEXT,
    "ts": WHOLE,
    "basket_item_id": pa.list_(TEXT),
    "basket_quantity": pa.list_(NUMBER),
    "basket_price": pa.list_(NUMBER),
    "history_item_id": pa.list_(TEXT),
    "history_ts": pa.list_(WHOLE),
    "history_kind": pa.list_(TEXT),
    "history_quantity": pa.list_(NUMBER),
    "history_price": pa.list_(NUMBER),
    "context": pa.map_(TEXT, TEXT),
    "profile": pa.map_(TEXT, TEXT),
    "exclude": pa.list_(TEXT),
    "categories": pa.list_(TEXT),
}
REQUIRED = ("user_id", "basket_item_id")
CHECKOUT_ID = "checkout_id"  # of any type; it is passed through


def check_columns(schema: pa.Schema, file: Path) -> list[str]:
    """The file's columns that are read. Raises ValueError where one is missing, or of another type."""
    if missing := [name for name in REQUIRED if name not in schema.names]:
        raise ValueError(
            f"{file}: no column {' and no '.join(missing)}; it has {', '.join(schema.names) or 'none'}."
            " To do: write a row per checkout with the columns that docs/architecture.md lists"
        )
    for name, wanted in INPUT.items():
        if name in schema.names and not _fits(schema.field(name).type, wanted):
            raise ValueError(
                f"{file}: column {name} is {schema.field(name).type}, expected {wanted}. To do: cast it"
            )
    return [name for name in schema.names if name in INPUT or name == CHECKOUT_ID]


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether what is found can be read as wanted: null as anything, whole numbers as ids."""
    kinds = pa.types
    if kinds.is_null(found):
        return True
    if kinds.is_dictionary(found):
        return _fits(found.value_type, wanted)
    if kinds.is_list(wanted):
        lists = kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found)
        return lists and _fits(found.value_type, wanted.value_type)
    if kinds.is_map(wanted):
        return kinds.is_map(found) and found.key_type == found.item_type == TEXT
    if wanted == TEXT:
        return kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_integer(found)
    return kinds.is_integer(found) or (wanted == NUMBER and kinds.is_floating(found))


def checkouts_of(batch: pa.RecordBatch, ts: int) -> list[Checkout | str]:
    """The checkout of each row, or the reason why there can be none. `ts` is for the rows without one."""
    columns = {
        name: batch[name].cast(wanted).to_pylist() if name in batch.schema.names else repeat(None)
        for name, wanted in INPUT.items()
    }
    made: list[Checkout | str] = []
    for _, *values in zip(range(batch.num_rows), *columns.values(), strict=False):
        try:
            made.append(checkout_of(dict(zip(INPUT, values, strict=True)), ts))
        except ValueError as error:
            made.append(str(error))
    return made


def checkout_of(row: Mapping[str, Any], ts: int) -> Checkout:
    """The checkout of one row, with the names of INPUT. Raises ValueError if there can be none."""
    lines = _parallel(row, "basket_item_id", "basket_quantity", "basket_price")
    events = _parallel(
        row, "history_item_id", "history_ts", "history_kind", "history_quantity", "history_price"
    )
    return Checkout(
        user_id=row["user_id"],
        basket=[Line(item, _or(quantity, 1.0), price) for item, quantity, price in lines or ()],
        ts=_or(row["ts"], ts),
        history=None
        if events is None
        else [
            Event(item, at, _or(kind, "purchase"), _or(quantity, 1.0), price)
            for item, at, kind, quantity, price in events
        ],
        context=_known(row["context"]),
        profile=_known(row["profile"]),
        exclude=row["exclude"] or (),
        categories=row["categories"],
    )


def _parallel(row: Mapping[str, Any], first: str, *others: str) -> list[tuple[Any, ...]] | None:
    """The elements of parallel lists, side by side; None if the first is null. Another may be null."""
    if row[first] is None:
        if given := [name for name in others if row[name]]:
            raise ValueError(f"{given[0]} has {len(row[given[0]])} elements, {first} is null")
        return None
    count = len(row[first])
    for name in others:
        if row[name] is not None and len(row[name]) != count:
            raise ValueError(f"{name} has {len(row[name])} elements, {first} has {count}")
    return list(zip(row[first], *(_or(row[name], [None] * count) for name in others), strict=True))


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _known(pairs: list[tuple[str, str | None]] | None) -> dict[str, str]:
    return {name: value for name, value in pairs or () if value is not None}


def output_schema(columns: Collection[str], schema: pa.Schema) -> pa.Schema:
    """The schema of the slates to a file with these columns: its `checkout_id`, else the row's number."""
    first = schema.field(CHECKOUT_ID) if CHECKOUT_ID in columns else pa.field("row", WHOLE)
    chances = [pa.field(name, pa.list_(pa.float32())) for name in ("click", "purchase", "value")]
    words = [pa.field(name, TEXT) for name in ("tier", "reason", "bundle_version")]
    items = [pa.field("user_id", TEXT), pa.field("item_id", pa.list_(TEXT))]
    return pa.schema([pa.field(first.name, first.type), *items, *chances, *words])


def answered(
    batch: pa.RecordBatch, first: int, slates: Sequence[Slate | str], version: str, schema: pa.Schema
) -> pa.RecordBatch:
    """The output of rows from number `first` on; a reason in place of a slate gives a row without items."""
    shown = [() if isinstance(slate, str) else slate.items for slate in slates]
    columns = [
        batch[CHECKOUT_ID] if schema.names[0] == CHECKOUT_ID else range(first, first + len(slates)),
        batch["user_id"].cast(TEXT),
        *([[getattr(item, name) for item in items] for items in shown] for name in schema.names[2:6]),
        [None if isinstance(slate, str) else slate.tier for slate in slates],
        [f"bad row: {slate}" if isinstance(slate, str) else slate.reason for slate in slates],
        [version] * len(slates),
    ]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
