"""Live changes of a shop as item updates: `export.py live=URI`, `export.py update --live URI`.

    live state, topic items ─ entries ─▶ a row per item, as in changes.parquet ─▶ the new version

The new version's manifest records when the live state was read. Services that load the new version ignore
older entries of the live state. After a rollback, an earlier version still applies those entries.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from data.feature_schema import FeatureSchema
from data.item_changes import item_update_schema
from exporting.exportable_run import ExportError
from serving.live_items.changes import GROUPS, TOPIC, ItemEntry, group_by_item, is_placeable, read_entry
from serving.stores.live_state import read_entries
from serving.stores.uri import open_live_state


class LiveUpdates(NamedTuple):
    """The entries of a live state, as item updates."""

    updates: pa.Table  # columns of data.item_changes.item_update_schema
    until: float  # Unix seconds (UTC) when they were read


def read_live_updates(
    uri: str, schema: FeatureSchema, known_ids: Collection[str], after: float = float("-inf")
) -> LiveUpdates:
    """The entries of a live state that were written after `after`, Unix seconds.

    Entries of an unknown item without a description (only stock or price) are left out; `known_ids` are the
    known items. Raises ExportError for a live state that cannot be read.
    """
    until = time.time()
    try:
        stored = read_entries(open_live_state(uri), TOPIC)
        entries = [read_entry(key, value) for key, value in sorted(stored.items())]
    except (OSError, ValueError, ImportError) as error:
        raise ExportError(f"live={uri}: {error}") from error
    entries = [entry for entry in entries if entry.ts > after and _is_of_schema(entry, schema)]
    rows = [
        {"item_id": item_id, **{_column(name): value for name, value in fields.items()}}
        for item_id, fields in group_by_item(entries).items()
        if item_id in known_ids or is_placeable(fields)
    ]
    update_schema = item_update_schema(schema)
    columns = {
        field.name: pa.array([_cast(row.get(field.name), field.type) for row in rows], field.type)
        for field in update_schema
    }
    return LiveUpdates(pa.table(columns, update_schema), until)


def _is_of_schema(entry: ItemEntry, schema: FeatureSchema) -> bool:
    """Whether the run reads the field: a known attribute, or a vector of the right length."""
    if entry.field.startswith(GROUPS["attributes"]):
        return _column(entry.field) in {attribute.name for attribute in schema.item_attributes}
    if entry.field.startswith(GROUPS["vectors"]):
        dims: Mapping[str, int] = {vector.name: vector.dim for vector in schema.listed_vectors}
        return dims.get(_column(entry.field)) == len(entry.value)
    return True


def _column(field: str) -> str:
    for prefix in GROUPS.values():
        field = field.removeprefix(prefix)
    return field


def _cast(value: Any, kind: pa.DataType) -> Any:
    """Converts a value to the type of its column. Text in a numeric attribute becomes null."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        is_whole = isinstance(value, float) and value.is_integer()
        return str(int(value) if is_whole else value)
    if pa.types.is_floating(kind):
        try:
            return float(value)
        except ValueError:
            return None
    return value
