"""Selects the further columns to read, with a reason for each column that is not read.

Preparation prints the columns and the reasons.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from data.errors import DataError
from data.tables.contract import TABLES, TABLES_WITH_ATTRIBUTES, attribute_columns, conform_attribute

IGNORED = "ignored"  # reason: features.ignore_columns
EMPTY = "empty"
RESERVED = "the name begins with _: rename it"
INDEX = "an index of pandas"
PANDAS_INDEX = r"__index_level_\d+__|Unnamed: \d+"
UNNAMED, NO_NAME = "no name in the header", r"column\d+"  # DuckDB's name of the type
PARTITION = "how its files are kept"
UnreadColumns = dict[str, dict[str, str]]  # table → column → why it is not read


class SelectedTables(NamedTuple):
    tables: dict[str, ir.Table]
    unread: UnreadColumns


def reject_unknown_columns(raw: Mapping[str, Collection[str]], ignored: Collection[str]) -> None:
    """Raise DataError for unknown names in `features.ignore_columns`, and for columns of the contract.

    `raw` maps tables to the columns of their files. A name is a column, or `table.column`.
    """
    for name in ignored:
        tables = [table for table, columns in raw.items() if ignored_columns(table, columns, [name])]
        if not tables:
            raise DataError(
                f"features.ignore_columns names '{name}', which no table has: correct or remove it"
            )
        of_contract = [table for table in tables if ignored_columns(table, TABLES[table], [name])]
        if of_contract:
            raise DataError(
                f"features.ignore_columns names '{name}', a column of the contract of {of_contract[0]}: "
                "remove it"
            )


def select_columns(
    con: ibis.BaseBackend,
    raw: Mapping[str, ir.Table],
    tables: Mapping[str, ir.Table],
    ignored: Collection[str],
) -> SelectedTables:
    """Returns the checked tables without the attributes that are not read, and all unread columns.

    These columns are not read: columns that `ignored` names; columns whose name begins with _; columns of a
    type that cannot be an attribute; further columns of `events`; attributes of items that are null in every
    row; texts of items whose values never repeat. Columns of an impression log are not listed.
    """
    unread: UnreadColumns = {}
    selected = dict(tables)
    for name, table in raw.items():
        unread[name] = _unreadable_columns(table, name)
        unread[name] |= dict.fromkeys(ignored_columns(name, table.columns, ignored), IGNORED)
    if "items" in tables:
        unread["items"] = _useless_attributes(con, tables["items"]) | unread["items"]
    for name, table in tables.items():
        selected[name] = table.drop(*[c for c in unread[name] if c in table.columns])
    return SelectedTables(selected, unread)


def ignored_columns(name: str, columns: Collection[str], ignored: Collection[str]) -> list[str]:
    """The columns of the table `name` that `ignored` names, as `column` or `table.column`."""
    return [c for c in columns if c in ignored or f"{name}.{c}" in ignored]


def _unreadable_columns(table: ir.Table, name: str) -> dict[str, str]:
    further = {c: table[c] for c in attribute_columns(table, name)}
    if name == "events":
        from serving.events.impression_log import SCHEMA  # late: torch takes seconds to import

        further = {c: value for c, value in further.items() if c not in SCHEMA.names}
    unreadable = {
        c: describe_type(value.type())
        for c, value in further.items()
        if name not in TABLES_WITH_ATTRIBUTES or conform_attribute(value) is None
    }
    unreadable |= {c: RESERVED for c in table.columns if c.startswith("_") and c != "_row"}
    unreadable |= {c: UNNAMED for c in table.columns if re.fullmatch(NO_NAME, c)}
    return unreadable | {c: INDEX for c in table.columns if re.fullmatch(PANDAS_INDEX, c)}


def _useless_attributes(con: ibis.BaseBackend, items: ir.Table) -> dict[str, str]:
    """The attributes of items without information: null in every row, or another text for every item."""
    names = attribute_columns(items, "items")
    if not names:
        return {}
    counts = con.to_pyarrow(
        items.agg(
            **{f"count_{i}": items[c].count() for i, c in enumerate(names)},
            **{f"distinct_{i}": items[c].nunique() for i, c in enumerate(names)},
        )
    ).to_pylist()[0]
    unread = {}
    for i, c in enumerate(names):
        if c == "codes":  # items.parquet has a column attribute_codes
            unread[c] = "the name is taken: rename it"
        elif counts[f"count_{i}"] == 0:
            unread[c] = EMPTY
        elif items[c].type().is_string() and counts[f"distinct_{i}"] == counts[f"count_{i}"] > 1:
            unread[c] = "text that never repeats"
    return unread


def describe_type(kind: dt.DataType) -> str:
    """Describes a type in words, such as `list of text`."""
    if isinstance(kind, dt.Array):
        return f"list of {describe_type(kind.value_type)}"
    if kind.is_string():
        return "text"
    return "number" if kind.is_numeric() and not kind.is_boolean() else str(kind)
