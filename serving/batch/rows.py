"""Rows of a Parquet file → checkouts, and slates → rows. What `python -m serving batch` reads and writes.

Row 1 is the first of the file.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..checkout import Checkout, Event, Line, Slate

STRING, INT64, FLOAT64 = pa.string(), pa.int64(), pa.float64()
INPUT_SCHEMA: dict[str, pa.DataType] = {
    "user_id": STRING,
    "ts": INT64,
    "basket_item_id": pa.list_(STRING),
    "basket_quantity": pa.list_(FLOAT64),
    "basket_price": pa.list_(FLOAT64),
    "history_item_id": pa.list_(STRING),
    "history_ts": pa.list_(INT64),
    "history_kind": pa.list_(STRING),
    "history_quantity": pa.list_(FLOAT64),
    "history_price": pa.list_(FLOAT64),
    "context": pa.map_(STRING, STRING),
    "profile": pa.map_(STRING, STRING),
    "exclude": pa.list_(STRING),
    "categories": pa.list_(STRING),
}
REQUIRED_COLUMNS = ("user_id", "basket_item_id")
CHECKOUT_ID = "checkout_id"  # of any type; it is passed through


def check_columns(schema: pa.Schema, file: Path) -> list[str]:
    """The file's columns that are read. Raises ValueError where one is missing, or of another type."""
    if missing := [name for name in REQUIRED_COLUMNS if name not in schema.names]:
        raise ValueError(
            f"{file}: no column {' and no '.join(missing)}; it has {', '.join(schema.names) or 'none'}."
            " To do: write a row per checkout with the columns that docs/architecture.md lists"
        )
    for name, wanted in INPUT_SCHEMA.items():
        if name in schema.names and not _is_castable(schema.field(name).type, wanted):
            raise ValueError(
                f"{file}: column {name} is {schema.field(name).type}, expected {wanted}. To do: cast it"
            )
    return [name for name in schema.names if name in INPUT_SCHEMA or name == CHECKOUT_ID]


def _is_castable(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether what is found can be read as wanted: null as anything, whole numbers as ids."""
    kinds = pa.types
    if kinds.is_null(found):
        return True
    if kinds.is_dictionary(found):
        return _is_castable(found.value_type, wanted)
    if kinds.is_list(wanted):
        lists = kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found)
        return lists and _is_castable(found.value_type, wanted.value_type)
    if kinds.is_map(wanted):
        return kinds.is_map(found) and found.key_type == found.item_type == STRING
    if wanted == STRING:
        return kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_integer(found)
    return kinds.is_integer(found) or (wanted == FLOAT64 and kinds.is_floating(found))


def parse_checkouts(batch: pa.RecordBatch, ts: int) -> list[Checkout | str]:
    """The checkout of each row, or the reason why there can be none. `ts` is for the rows without one."""
    columns = {
        name: batch[name].cast(wanted).to_pylist() if name in batch.schema.names else repeat(None)
        for name, wanted in INPUT_SCHEMA.items()
    }
    made: list[Checkout | str] = []
    for _, *values in zip(range(batch.num_rows), *columns.values(), strict=False):
        try:
            made.append(parse_checkout(dict(zip(INPUT_SCHEMA, values, strict=True)), ts))
        except ValueError as error:
            made.append(str(error))
    return made


def parse_checkout(row: Mapping[str, Any], ts: int) -> Checkout:
    """The checkout of one row, with the names of INPUT. Raises ValueError if there can be none."""
    lines = _zip_lists(row, "basket_item_id", "basket_quantity", "basket_price")
    events = _zip_lists(
        row, "history_item_id", "history_ts", "history_kind", "history_quantity", "history_price"
    )
    return Checkout(
        user_id=row["user_id"],
        basket=[Line(item, _default_if_none(quantity, 1.0), price) for item, quantity, price in lines or ()],
        ts=_default_if_none(row["ts"], ts),
        history=None
        if events is None
        else [
            Event(item, at, _default_if_none(kind, "purchase"), _default_if_none(quantity, 1.0), price)
            for item, at, kind, quantity, price in events
        ],
        context=_drop_null_attributes(row["context"]),
        profile=_drop_null_attributes(row["profile"]),
        exclude=row["exclude"] or (),
        categories=row["categories"],
    )


def _zip_lists(row: Mapping[str, Any], first: str, *others: str) -> list[tuple[Any, ...]] | None:
    """The elements of parallel lists, side by side; None if the first is null. Another may be null."""
    if row[first] is None:
        if given := [name for name in others if row[name]]:
            raise ValueError(f"{given[0]} has {len(row[given[0]])} elements, {first} is null")
        return None
    count = len(row[first])
    for name in others:
        if row[name] is not None and len(row[name]) != count:
            raise ValueError(f"{name} has {len(row[name])} elements, {first} has {count}")
    return list(
        zip(row[first], *(_default_if_none(row[name], [None] * count) for name in others), strict=True)
    )


def _default_if_none(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _drop_null_attributes(pairs: list[tuple[str, str | None]] | None) -> dict[str, str]:
    return {name: value for name, value in pairs or () if value is not None}


def output_schema(columns: Collection[str], schema: pa.Schema) -> pa.Schema:
    """The schema of the slates to a file with these columns: its `checkout_id`, else the row's number."""
    first = schema.field(CHECKOUT_ID) if CHECKOUT_ID in columns else pa.field("row", INT64)
    chances = [pa.field(name, pa.list_(pa.float32())) for name in ("click", "purchase", "value")]
    words = [pa.field(name, STRING) for name in ("tier", "reason", "bundle_version")]
    items = [pa.field("user_id", STRING), pa.field("item_id", pa.list_(STRING))]
    return pa.schema([pa.field(first.name, first.type), *items, *chances, *words])


def slates_to_batch(
    batch: pa.RecordBatch, first: int, slates: Sequence[Slate | str], version: str, schema: pa.Schema
) -> pa.RecordBatch:
    """The output of rows from number `first` on; a reason in place of a slate gives a row without items."""
    shown = [() if isinstance(slate, str) else slate.items for slate in slates]
    columns = [
        batch[CHECKOUT_ID] if schema.names[0] == CHECKOUT_ID else range(first, first + len(slates)),
        batch["user_id"].cast(STRING),
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
