"""The canonical tables: their columns, their types, and the one error for bad input.

A source hands over raw ibis tables with a column `_row` (1-based row of the file, the header not
counted). `conform` checks the columns and brings them to the canonical types:

    id      string                    from strings or integers, so that 17 never becomes "17.0"
    time    int64, Unix seconds UTC   from timestamps, dates, Unix seconds or ISO 8601 text
    number  float64                   from any numeric type
    text    string
    flag    boolean                   from booleans, or 0 and 1

Text columns are accepted for times, numbers and flags only from CSV, where nothing else exists; a value
that does not parse becomes null and is reported by `data/tables/checks.py` as a bad row.
"""

import difflib
from collections.abc import Collection
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data.errors import DataError

EVENT_KINDS = (
    "impression",
    "click",
    "cart",
    "purchase",
)  # of events; `models/schema.py` has those of a history


class ColumnSpec(NamedTuple):
    logical_type: str  # id, time, number, text or flag
    required: bool = True


ORDERS = {
    "order_id": ColumnSpec("id"),
    "user_id": ColumnSpec("id"),
    "item_id": ColumnSpec("id"),
    "ts": ColumnSpec("time"),
    "quantity": ColumnSpec("number"),
    "price": ColumnSpec("number"),
    "ingested_at": ColumnSpec("time", False),
}
ITEMS = {
    "item_id": ColumnSpec("id"),
    "title": ColumnSpec("text"),
    "description": ColumnSpec("text", False),
    "category": ColumnSpec("text", False),
    "brand": ColumnSpec("id", False),
    "price": ColumnSpec("number", False),
    "margin": ColumnSpec("number", False),
    "created_at": ColumnSpec("time", False),
    "available": ColumnSpec("flag", False),
}
USERS = {"user_id": ColumnSpec("id")}
EVENTS = {
    "user_id": ColumnSpec("id"),
    "item_id": ColumnSpec("id"),
    "ts": ColumnSpec("time"),
    "kind": ColumnSpec("text"),
    "order_id": ColumnSpec("id", False),
    "position": ColumnSpec("number", False),
    "propensity": ColumnSpec("number", False),
    "value": ColumnSpec("number", False),
    "ingested_at": ColumnSpec("time", False),
    "request_id": ColumnSpec("id", False),
}
TABLES = {"orders": ORDERS, "items": ITEMS, "users": USERS, "events": EVENTS}
TABLES_WITH_ATTRIBUTES = ("orders", "users")  # their other columns are context and profile attributes

ACCEPTED_TYPES = {
    "id": "string or integer",
    "time": "timestamp, date, Unix seconds or ISO 8601 text",
    "number": "number",
    "text": "string",
    "flag": "boolean",
}
CANONICAL_TYPES = {"id": "string", "time": "int64", "number": "float64", "text": "string", "flag": "boolean"}


def attribute_columns(table: ir.Table, name: str) -> list[str]:
    """The columns of `orders` or `users` that the contract does not name: context or profile."""
    return [c for c in table.columns if c not in TABLES[name] and not c.startswith("_")]


def conform(table: ir.Table, name: str, file: str, required: Collection[str] | None = None) -> ir.Table:
    """The table with canonical types, in the contract's column order, attributes behind.

    Missing optional columns are null; `required` says which are not optional, if not those that the
    contract requires. Where `file` is CSV, the text of a cell that did not parse is kept in `_raw_<column>`.
    Raises DataError for a missing column or one of a wrong type.
    """
    text = file.endswith(".csv")
    columns = TABLES[name]
    found = [c for c in table.columns if not c.startswith("_")]
    if required is None:
        required = [c for c, spec in columns.items() if spec.required]
    missing = [c for c in required if c not in found]
    if missing:
        raise DataError("\n".join(_missing(c, columns[c], found, columns, file) for c in missing))
    out: dict[str, ir.Value] = {}
    for c, spec in columns.items():
        if c not in found:
            continue
        value = _convert(table[c], spec.logical_type, text)
        if value is None:
            raise DataError(
                f"{file}: column '{c}' is {table[c].type()}, expected {ACCEPTED_TYPES[spec.logical_type]}. Convert it, or "
                f"write the file as CSV."
            )
        out[c] = value.cast(CANONICAL_TYPES[spec.logical_type])
        if text and spec.logical_type in ("time", "number", "flag") and table[c].type().is_string():
            out[f"_raw_{c}"] = ibis.ifelse(value.isnull(), table[c], ibis.null("string"))
    if name in TABLES_WITH_ATTRIBUTES:
        for c in attribute_columns(table, name):
            out[c] = _convert_attribute(table[c], c, file)
    for c in columns:
        if c not in out:
            out[c] = ibis.null(CANONICAL_TYPES[columns[c].logical_type])
    return table.select(_row=table["_row"].cast("int64"), **out)


def _missing(column: str, spec: ColumnSpec, found: list[str], known: dict[str, ColumnSpec], file: str) -> str:
    # A column that is itself part of the contract is not a misspelling of another one.
    other = {c.lower(): c for c in found if c not in known}
    near = difflib.get_close_matches(column, list(other), n=1, cutoff=0.5)
    hint = f"; rename '{other[near[0]]}'?" if near else ""
    expected = ACCEPTED_TYPES[spec.logical_type]
    return f"{file}: column '{column}' ({expected}) is missing. Found: {', '.join(found) or 'none'}{hint}"


def _convert(value: ir.Value, kind: str, text: bool) -> ir.Value | None:
    """The value in its canonical type, or None when the type cannot stand for `kind`."""
    t = value.type()
    if kind in ("id", "text"):
        return value.cast("string") if t.is_string() or t.is_integer() else None
    if kind == "number":
        if t.is_numeric() and not t.is_boolean():
            return value.cast("float64")
        return value.try_cast("float64") if text and t.is_string() else None
    if kind == "flag":
        if t.is_boolean() or t.is_integer():
            return value.cast("boolean")
        return value.try_cast("boolean") if text and t.is_string() else None
    if t.is_integer():
        return value.cast("int64")
    if t.is_timestamp() or t.is_date():
        return unix_seconds(value)
    if t.is_string():
        number = value.re_search(r"^\s*-?\d+(\.\d+)?\s*$")
        # The zoned type reads an offset where there is one and takes UTC where there is none; the plain
        # timestamp type would drop the offset without a word.
        stamp = unix_seconds(value.try_cast("timestamp('UTC')"))
        return ibis.ifelse(number, value.try_cast("float64").floor().cast("int64"), stamp)
    return None


def unix_seconds(value: ir.Value) -> ir.Value:
    """Unix seconds of a timestamp or date, whole and rounded down; a naive one is taken as UTC."""
    # ibis declares epoch_seconds as int32, DuckDB returns a double: the detour rounds down, not to nearest.
    return value.cast("timestamp").epoch_seconds().cast("float64").floor().cast("int64")


def _convert_attribute(value: ir.Value, name: str, file: str) -> ir.Value:
    """Attributes come as string (boolean too), int64 or float64 (decimals and times too)."""
    t: dt.DataType = value.type()
    if t.is_string() or t.is_boolean():
        return value.cast("string")
    if t.is_integer():
        return value.cast("int64")
    if t.is_numeric():
        return value.cast("float64")
    if t.is_timestamp() or t.is_date():
        return unix_seconds(value).cast("float64")
    if t.is_null() or t.is_time() or t.is_uuid():
        return value.cast("string")
    raise DataError(f"{file}: column '{name}' is {t}, which cannot be an attribute. Flatten it or drop it.")
