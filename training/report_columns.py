"""The columns of users, orders and items whose values a report may have metrics by (`evaluation.by`)."""

from collections.abc import Sequence

from data.feature_schema import FeatureSchema
from training.config_keys import suggest_names
from training.errors import ConfigError
from training.prepared_data import PreparedData

ITEM_COLUMNS = ("brand", "category", "price")  # of items.parquet, beside the attributes


def report_columns(schema: FeatureSchema) -> list[str]:
    """`users.city`, `orders.channel`, `items.brand` and so on, as the prepared data have them."""
    items = [*ITEM_COLUMNS, *(a.name for a in schema.item_attributes)]
    return [
        *(f"users.{attribute.name}" for attribute in schema.profile),
        *(f"orders.{attribute.name}" for attribute in schema.context),
        *(f"items.{name}" for name in items),
    ]


def check_report_columns(columns: Sequence[str], prepared: PreparedData) -> None:
    """Raise ConfigError for a column that the prepared data lack, with the nearest and with all there are."""
    valid_names = report_columns(FeatureSchema.load(prepared.folder))
    unread = (prepared.meta.get("columns") or {}).get("unread", {})
    for column in columns:
        if column in valid_names:
            continue
        table, _, name = column.partition(".")
        reason = unread.get(table, {}).get(name)
        problem = f"the column is not read ({reason})" if reason else "no such column"
        raise ConfigError(
            f"evaluation.by: {column}: {problem}.{suggest_names(column, valid_names)} There are "
            f"{', '.join(valid_names)}"
        )


def column_list(setting: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of `evaluation.by`: a list, or the one of `evaluation.by=users.city`."""
    return (setting,) if isinstance(setting, str) else tuple(dict.fromkeys(setting or ()))
