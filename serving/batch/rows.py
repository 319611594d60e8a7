"""Turns rows of a Parquet file into checkouts, and slates into rows, for `sextet batch`.

Rows are numbered from 1.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..checkout import Checkout, Event, Item, Line, Slate

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
CHECKOUT_ID = "checkout_id"  # of any type; copied to the output
# Lists of an output row, one element per item: the fields of Item.
ITEM_SCHEMA: dict[str, pa.DataType] = {
    "item_id": pa.list_(STRING),
    "click": pa.list_(pa.float32()),
    "purchase": pa.list_(pa.float32()),
    "value": pa.list_(pa.float32()),
}
PREDICTIONS = pa.map_(STRING, pa.list_(pa.float32()))  # task → one number per item


def check_columns(schema: pa.Schema, file: Path) -> list[str]:
    """The file's columns that are read. Raises ValueError if a column is missing or has a wrong type."""
    if missing := [name for name in REQUIRED_COLUMNS if name not in schema.names]:
        raise ValueError(
            f"{file}: no column {' and no '.join(missing)}; it has {', '.join(schema.names) or 'none'}."
            " To do: write a row per checkout with the columns that docs/reference/batch_files.md lists"
        )
    for name, expected in INPUT_SCHEMA.items():
        if name in schema.names and not _is_castable(schema.field(name).type, expected):
            raise ValueError(
                f"{file}: column {name} is {schema.field(name).type}, expected {expected}. To do: cast it"
            )
    return [name for name in schema.names if name in INPUT_SCHEMA or name == CHECKOUT_ID]


def _is_castable(actual: pa.DataType, expected: pa.DataType) -> bool:
    """Whether values of the actual type can be read as the expected type.

    Nulls can be read as any type, and integers as ids.
    """
    types = pa.types
    if types.is_null(actual):
        return True
    if types.is_dictionary(actual):
        return _is_castable(actual.value_type, expected)
    if types.is_list(expected):
        is_list = types.is_list(actual) or types.is_large_list(actual) or types.is_fixed_size_list(actual)
        return is_list and _is_castable(actual.value_type, expected.value_type)
    if types.is_map(expected):
        return bool(types.is_map(actual) and actual.key_type == actual.item_type == STRING)
    if expected == STRING:
        return bool(types.is_string(actual) or types.is_large_string(actual) or types.is_integer(actual))
    return bool(types.is_integer(actual) or (expected == FLOAT64 and types.is_floating(actual)))


def parse_checkouts(batch: pa.RecordBatch, default_ts: int) -> list[Checkout | str]:
    """The checkout of each row, or the reason why the row is invalid.

    `default_ts` is the time of rows without one.
    """
    columns = {
        name: batch[name].cast(expected).to_pylist() if name in batch.schema.names else repeat(None)
        for name, expected in INPUT_SCHEMA.items()
    }
    checkouts: list[Checkout | str] = []
    for _, *values in zip(range(batch.num_rows), *columns.values(), strict=False):
        try:
            checkouts.append(parse_checkout(dict(zip(INPUT_SCHEMA, values, strict=True)), default_ts))
        except ValueError as error:
            checkouts.append(str(error))
    return checkouts


def parse_checkout(row: Mapping[str, Any], default_ts: int) -> Checkout:
    """The checkout of a row with the keys of INPUT_SCHEMA. Raises ValueError for an invalid row."""
    lines = _zip_lists(row, "basket_item_id", "basket_quantity", "basket_price")
    events = _zip_lists(
        row, "history_item_id", "history_ts", "history_kind", "history_quantity", "history_price"
    )
    return Checkout(
        user_id=row["user_id"],
        basket=[Line(item, _default_if_none(quantity, 1.0), price) for item, quantity, price in lines or ()],
        ts=_default_if_none(row["ts"], default_ts),
        history=None
        if events is None
        else [
            Event(item, ts, _default_if_none(kind, "purchase"), _default_if_none(quantity, 1.0), price)
            for item, ts, kind, quantity, price in events
        ],
        context=_drop_null_attributes(row["context"]),
        profile=_drop_null_attributes(row["profile"]),
        exclude=row["exclude"] or (),
        categories=row["categories"],
    )


def _zip_lists(row: Mapping[str, Any], id_column: str, *columns: str) -> list[tuple[Any, ...]] | None:
    """The elements of parallel lists as tuples; None if the ids are null. A null list gives None elements."""
    ids = row[id_column]
    if ids is None:
        if filled := [name for name in columns if row[name]]:
            raise ValueError(f"{filled[0]} has {len(row[filled[0]])} elements, {id_column} is null")
        return None
    for name in columns:
        if row[name] is not None and len(row[name]) != len(ids):
            raise ValueError(f"{name} has {len(row[name])} elements, {id_column} has {len(ids)}")
    return list(zip(ids, *(_default_if_none(row[name], [None] * len(ids)) for name in columns), strict=True))


def _default_if_none(value: Any, default: Any) -> Any:
    return default if value is None else value


def _drop_null_attributes(pairs: list[tuple[str, str | None]] | None) -> dict[str, str]:
    return {name: value for name, value in pairs or () if value is not None}


def output_schema(columns: Collection[str], schema: pa.Schema) -> pa.Schema:
    """The schema of the slates of a file with these columns. Without a `checkout_id` rows are numbered."""
    row_type = schema.field(CHECKOUT_ID).type if CHECKOUT_ID in columns else INT64
    return pa.schema(
        {
            (CHECKOUT_ID if CHECKOUT_ID in columns else "row"): row_type,
            "user_id": STRING,
            **ITEM_SCHEMA,
            "predictions": PREDICTIONS,
            **dict.fromkeys(("tier", "reason", "bundle_version"), STRING),
        }
    )


def _predictions_by_task(items: Sequence[Item]) -> list[tuple[str, list[float | None]]]:
    """Returns task → its predictions for a slate's items; null for items of tiers without predictions."""
    predictions = [item.predictions or {} for item in items]
    names = dict.fromkeys(name for of_item in predictions for name in of_item)
    return [(name, [of_item.get(name) for of_item in predictions]) for name in names]


def slates_to_batch(
    batch: pa.RecordBatch, first_row: int, slates: Sequence[Slate | str], version: str, schema: pa.Schema
) -> pa.RecordBatch:
    """Returns the output rows of consecutive input rows. `first_row` is the number of the first one.

    A row with a reason in place of a slate has no items.
    """
    items = [() if isinstance(slate, str) else slate.items for slate in slates]
    columns = {
        "row": range(first_row, first_row + len(slates)),
        CHECKOUT_ID: batch[CHECKOUT_ID] if CHECKOUT_ID in schema.names else None,
        "user_id": batch["user_id"].cast(STRING),
        **{name: [[getattr(item, name) for item in row] for row in items] for name in ITEM_SCHEMA},
        "predictions": [_predictions_by_task(row) for row in items],
        "tier": [None if isinstance(slate, str) else slate.tier for slate in slates],
        "reason": [f"bad row: {slate}" if isinstance(slate, str) else slate.reason for slate in slates],
        "bundle_version": [version] * len(slates),
    }
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
