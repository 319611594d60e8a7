"""The contract of the canonical tables: their columns and types.

A source returns raw ibis tables with a column `_row` (1-based row of the file, without the header).
`conform` checks the columns and casts them to the canonical types:

    id      string                    from strings or integers, so that 17 never becomes "17.0"
    time    int64, Unix seconds UTC   from timestamps, dates, Unix seconds or ISO 8601 text
    number  float64                   from any numeric type
    text    string
    flag    boolean                   from booleans, 0 and 1, or text such as yes and no

Times, numbers and flags may be text only in CSV, which has no types. A value that does not parse becomes
null, and `data/tables/checks.py` reports its row.
"""

import difflib
import re
from collections.abc import Collection
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data.errors import DataError
from serving.column_names import suggest_columns
from serving.table_files import NO_USER, OFFSET, STANDARD_OFFSET, TableFile

EVENT_KINDS = ("impression", "click", "cart", "purchase", "ghost")  # of the table events; not in histories
# An item of a slate: shown, or of a slate that an experiment held back (a ghost ad: Johnson, Lewis and
# Nubbemeyer 2017, Ghost Ads, Journal of Marketing Research 54).
SLATE_KINDS = ("impression", "ghost")


class ColumnSpec(NamedTuple):
    logical_type: str  # id, time, number, text or flag
    required: bool = True  # the column must exist
    nullable: bool = False  # a required column whose values may be null


ORDERS = {
    "order_id": ColumnSpec("id"),
    "user_id": ColumnSpec("id", nullable=True),  # null for a guest's order
    "item_id": ColumnSpec("id"),
    "ts": ColumnSpec("time"),
    "quantity": ColumnSpec("number"),
    "price": ColumnSpec("number"),
    "ingested_at": ColumnSpec("time", False),
}
ITEMS = {
    "item_id": ColumnSpec("id"),
    "title": ColumnSpec("text", nullable=True),
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
    "withhold": ColumnSpec("number", False),
    "value": ColumnSpec("number", False),
    "ingested_at": ColumnSpec("time", False),
    "request_id": ColumnSpec("id", False),
}
TABLES = {"orders": ORDERS, "items": ITEMS, "users": USERS, "events": EVENTS}
# Further columns are attributes: context of orders, attributes of items, the profile of users.
TABLES_WITH_ATTRIBUTES = ("orders", "items", "users")
ATTRIBUTES_BY_PARTITION = ("items", "users")  # tables whose partition keys are attributes

ACCEPTED_TYPES = {
    "id": "string or integer",
    "time": "timestamp, date, Unix seconds or ISO 8601 text",
    "number": "number",
    "text": "string",
    "flag": "boolean",
}
# The texts of a flag, in lower case.
TRUE_TEXTS = ("true", "t", "yes", "y", "1", "ja", "oui", "sí", "si")
FALSE_TEXTS = ("false", "f", "no", "n", "0", "nein", "non")
CANONICAL_TYPES = {"id": "string", "time": "int64", "number": "float64", "text": "string", "flag": "boolean"}


def category_path(value: ir.StringValue) -> ir.StringValue:
    """Gives a path one spelling: `food/dairy` for `/ food / dairy /` and `food > dairy`. Null if empty."""
    path = value.cast("string").re_replace(r"\s+>\s+", "/")
    parts = path.split("/").map(lambda part: part.strip()).filter(lambda part: part != "")
    return parts.join("/").nullif("")


def known_user(value: ir.StringValue) -> ir.StringValue:
    """The user's id. Null for a guest, whom a program may write as an empty text or a word such as `null`."""
    text = value.cast("string")
    return ibis.ifelse(text.strip().lower().isin(NO_USER), ibis.null("string"), text)


def attribute_columns(table: ir.Table, name: str) -> list[str]:
    """The columns of a table outside the contract: its attributes.

    Names that begin with _, such as `_row`, belong to preparation.
    """
    return [c for c in table.columns if c not in TABLES[name] and not c.startswith("_")]


# Other spellings of a value → the spelling that is used.
NORMALIZED = {
    ("items", "category"): category_path,
    ("orders", "user_id"): known_user,
    ("events", "user_id"): known_user,
}


def is_event_kind(kind: str) -> bool:
    """Whether a text can be a kind of `events`: a word of letters, digits, - and _, a letter first."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", kind) is not None


def similar_event_kind(kind: str, kinds: Collection[str]) -> str | None:
    """The known kind that `kind` probably misspells: `Clicks` → click. None for another word."""
    similar = difflib.get_close_matches(kind.strip().lower(), list(kinds), n=1, cutoff=0.8)
    return similar[0] if similar else None


def conform(table: ir.Table, name: str, file: TableFile, required: Collection[str] | None = None) -> ir.Table:
    """Gives the table canonical types. Its columns are in the contract's order, followed by its attributes.

    Columns of a type that cannot be an attribute are left out (data/tables/column_selection.py).

    Missing optional columns become null. If `file` is CSV, the text of a cell that does not parse is kept in
    `_raw_<column>`. Raises DataError for a missing column or one of a wrong type.

    Args:
        required: the columns that must exist; by default those that the contract requires.
    """
    is_text = file.csv is not None
    specs = TABLES[name]
    present = [c for c in table.columns if not c.startswith("_")]
    if required is None:
        required = required_columns(name)
    reject_missing(present, name, file, required)
    out: dict[str, ir.Value] = {}
    for c, spec in specs.items():
        if c not in present:
            continue
        value = _convert(table[c], spec.logical_type, is_text)
        if value is None and spec.logical_type == "id" and table[c].type().is_floating():
            raise DataError(
                f"{file}: column '{c}' is {table[c].type()}: a program that wrote whole numbers with gaps "
                "has turned ids such as 17 into 17.0. Write the column as text, or declare that the ids are "
                "whole numbers: "
                f"'data.columns.{name}={{{c}: {{column: {file.name_in_file(c)}, type: integer}}}}'"
            )
        if value is None:
            raise DataError(
                f"{file}: column '{c}' is {table[c].type()}, expected {ACCEPTED_TYPES[spec.logical_type]}. "
                "Convert it, or write the file as CSV."
            )
        if value is not None and (name, c) in NORMALIZED:
            value = NORMALIZED[name, c](value)
        out[c] = value.cast(CANONICAL_TYPES[spec.logical_type])
        if is_text and spec.logical_type in ("time", "number", "flag") and table[c].type().is_string():
            out[f"_raw_{c}"] = ibis.ifelse(value.isnull(), table[c], ibis.null("string"))
    if name in TABLES_WITH_ATTRIBUTES:
        for c in attribute_columns(table, name):
            if (attribute := conform_attribute(table[c])) is not None:
                out[c] = attribute
    for c, spec in specs.items():
        if c not in out:
            out[c] = ibis.null(CANONICAL_TYPES[spec.logical_type])
    return table.select(_row=table["_row"].cast("int64"), **out)


def reject_missing(present: list[str], name: str, file: TableFile, required: Collection[str]) -> None:
    """Raise DataError for missing required columns, with similar columns of the file."""
    missing = [c for c in required if c not in present]
    if missing:
        raise DataError(_describe_missing(missing, name, present, file))


def required_columns(name: str) -> list[str]:
    """The columns that a table must have."""
    return [c for c, spec in TABLES[name].items() if spec.required]


def _describe_missing(missing: Collection[str], name: str, present: list[str], file: TableFile) -> str:
    """The error for missing columns, with similar columns of the file."""
    expected = ", ".join(f"'{c}' ({ACCEPTED_TYPES[TABLES[name][c].logical_type]})" for c in missing)
    text = f"{file}: table '{name}' lacks {expected}. Found: {', '.join(present) or 'none'}"
    mapping = suggest_columns(missing, [c for c in present if c not in TABLES[name]])
    if not mapping:
        return text
    pairs = ", ".join(f"{column}: {found}" for column, found in mapping.items())
    return f"{text}. By another name? 'data.columns.{name}={{{pairs}}}'"


def _convert(value: ir.Value, logical_type: str, is_text: bool) -> ir.Value | None:
    """The value in its canonical type, or None if its type does not fit `logical_type`."""
    t = value.type()
    if logical_type in ("id", "text"):
        return value.cast("string") if t.is_string() or t.is_integer() else None
    if logical_type == "number":
        if t.is_numeric() and not t.is_boolean():
            return value.cast("float64")
        return value.try_cast("float64") if is_text and t.is_string() else None
    if logical_type == "flag":
        if t.is_boolean() or t.is_integer():
            return value.cast("boolean")
        return _flag(value) if is_text and t.is_string() else None
    if t.is_integer():
        return value.cast("int64")
    if t.is_floating():  # whole seconds in a column with gaps
        is_time = ~(value.isnan() | value.isinf())
        return ibis.ifelse(is_time, value, None).floor().cast("int64")
    if t.is_timestamp() or t.is_date():
        return unix_seconds(value)
    if t.is_string():
        is_number = value.re_search(r"^\s*-?\d+(\.\d+)?\s*$")
        # The zoned type reads an offset, by default UTC. The plain type would drop the offset.
        text = value.strip().re_replace(OFFSET, STANDARD_OFFSET)
        timestamp = unix_seconds(text.try_cast("timestamp('UTC')"))
        return ibis.ifelse(is_number, value.try_cast("float64").floor().cast("int64"), timestamp)
    return None


def _flag(value: ir.StringValue) -> ir.BooleanValue:
    text = value.strip().lower()
    return ibis.cases((text.isin(TRUE_TEXTS), True), (text.isin(FALSE_TEXTS), False))


def unix_seconds(value: ir.Value) -> ir.Value:
    """The Unix seconds of a timestamp or date, rounded down. Without a zone it is taken as UTC."""
    # Ibis declares epoch_seconds as int32, DuckDB returns a double: a plain cast would round to nearest.
    return value.cast("timestamp").epoch_seconds().cast("float64").floor().cast("int64")


def conform_attribute(value: ir.Value) -> ir.Value | None:
    """Casts an attribute to string (also booleans), int64, uint64 or float64 (also decimals and times).

    None for lists, structs and other types.
    """
    t: dt.DataType = value.type()
    if t.is_string() or t.is_boolean():
        return value.cast("string")
    if t.is_integer():
        return value if isinstance(t, dt.UInt64) else value.cast("int64")  # half of uint64 exceeds int64
    if t.is_numeric():
        return value.cast("float64")
    if t.is_timestamp() or t.is_date():
        return unix_seconds(value).cast("float64")
    if t.is_null() or t.is_time() or t.is_uuid():
        return value.cast("string")
    return None
