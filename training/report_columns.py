"""The columns of users, orders and items by whose values reports can split metrics (`evaluation.by`)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.feature_schema import FeatureSchema
from data.tables.contract import TABLES, TABLES_WITH_ATTRIBUTES
from training.config_keys import suggest_names
from training.errors import ConfigError

ITEM_COLUMNS = ("brand", "category", "price")  # of items.parquet, beside the attributes


def report_columns(schema: FeatureSchema) -> list[str]:
    """The report columns of prepared data, such as `users.city`, `orders.channel` and `items.brand`."""
    items = [*ITEM_COLUMNS, *(a.name for a in schema.item_attributes)]
    return [
        *(f"users.{attribute.name}" for attribute in schema.profile),
        *(f"orders.{attribute.name}" for attribute in schema.context),
        *(f"items.{name}" for name in items),
    ]


def check_report_columns(columns: Sequence[str], prepared: Path) -> None:
    """Raise ConfigError for a column that a prepared folder lacks, with the nearest name and all columns."""
    if not columns:
        return
    meta = json.loads((prepared / "meta.json").read_text())
    unread = (meta.get("columns") or {}).get("unread", {})
    reasons = {f"{table}.{name}": reason for table in unread for name, reason in unread[table].items()}
    _reject_unknown(columns, report_columns(FeatureSchema.load(prepared)), reasons)


def check_header_columns(columns: Sequence[str], headers: Mapping[str, Sequence[str]]) -> None:
    """Does `check_report_columns` by the headers of a shop's files, before they are read."""
    if not columns:
        return
    attributes = {name: [c for c in headers.get(name, ()) if c not in TABLES[name]] for name in TABLES}
    check_table_columns(columns, attributes, {})


def check_table_columns(
    columns: Sequence[str], attributes: Mapping[str, Sequence[str]], unread: Mapping[str, Mapping[str, str]]
) -> None:
    """Does `check_report_columns` by a shop's tables.

    `attributes` maps a canonical table to its attributes. `unread` maps a table to its columns that are not
    read, each with the reason.
    """
    valid_names = [f"{table}.{c}" for table in TABLES_WITH_ATTRIBUTES for c in attributes.get(table, ())]
    reasons = {f"{table}.{c}": reason for table in unread for c, reason in unread[table].items()}
    _reject_unknown(columns, [*valid_names, *(f"items.{c}" for c in ITEM_COLUMNS)], reasons)


def _reject_unknown(columns: Sequence[str], valid_names: Sequence[str], unread: Mapping[str, str]) -> None:
    for column in columns:
        if column not in valid_names:
            problem = f"the column is not read ({unread[column]})" if column in unread else "no such column"
            raise ConfigError(
                f"evaluation.by: {column}: {problem}.{suggest_names(column, valid_names)} Expected "
                f"{', '.join(valid_names)}"
            )


def column_list(setting: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of `evaluation.by`: a list, or a single one as in `evaluation.by=users.city`."""
    return (setting,) if isinstance(setting, str) else tuple(dict.fromkeys(setting or ()))
