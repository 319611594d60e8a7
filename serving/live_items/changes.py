"""Changes of items: the JSON that a shop sends, and the entries in the live state.

    {"item_id": "A1", "price": 2.5} ─▶ topic items, key price/A1, value {"value": 2.5, "ts": 1764500000.2}

Each field of an item has a separate entry, so feeds of stock and prices do not overwrite each other. Of two
changes of a field, the later wins. null removes an entry, so that the bundle's value applies again.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ..checkout import MAX_NUMBER
from ..pipeline.exclusion import category_path
from ..stores.live_state import Change

TOPIC = "items"
CATEGORY_NAME = re.compile(r"[^/>\s]")  # a character that is not a separator
STOCK_FIELDS = ("available", "price")
TEXT_FIELDS = ("title", "description", "category", "brand")
GROUPS = {"attributes": "attribute.", "vectors": "vector."}  # field of a change → prefix of its entries
FIELDS = ("item_id", *STOCK_FIELDS, *TEXT_FIELDS, *GROUPS)  # of a change
UNTIL = "live_items_until"  # of a manifest's `export`: Unix seconds when it read the live state
# Hosts' clocks differ by less. Entries of that time are applied again, which changes nothing.
MAX_CLOCK_DIFFERENCE = 60.0
MAX_FLOAT = sys.float_info.max  # JSON has larger whole numbers
ACTING_FIELDS = (*STOCK_FIELDS, "title")  # act on an item of the bundle; the others wait for the next export


@dataclass(frozen=True, slots=True)
class ItemChange:
    """New values of some fields of one item. Raises ValueError, which names the field, if invalid.

    Args:
        values: by entry: available, price, title, description, category, brand, attribute.NAME, vector.NAME.
            None restores the bundle's value.
    """

    item_id: str
    values: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.item_id, str) or not self.item_id:
            raise ValueError(f"item_id: {self.item_id!r} is not a text of one or more characters")
        for name, value in self.values.items():
            if value is not None and (reason := _value_error(name, value)):
                raise ValueError(f"{name}: {reason}")


class ItemEntry(NamedTuple):
    """An entry of the live state."""

    item_id: str
    field: str
    value: Any
    ts: float  # Unix seconds (UTC) of the change


def make_change(fields: Mapping[str, Any]) -> ItemChange:
    """The change of a JSON object with the fields FIELDS. Raises ValueError, which names the field."""
    if unknown := [name for name in fields if name not in FIELDS]:
        raise ValueError(f"{unknown[0]}: unknown field; expected {', '.join(FIELDS)}")
    values = {name: value for name, value in fields.items() if name in (*STOCK_FIELDS, *TEXT_FIELDS)}
    for group, prefix in GROUPS.items():
        named = {} if fields.get(group) is None else fields[group]
        if not isinstance(named, Mapping):
            raise ValueError(f"{group}: expected an object of names and values")
        if "" in named:
            raise ValueError(f"{group}: a name is empty")
        values |= {f"{prefix}{name}": value for name, value in named.items()}
    if isinstance(values.get("category"), str):
        values["category"] = category_path(values["category"])
    return ItemChange(fields.get("item_id", ""), values)


def to_entries(changes: Iterable[ItemChange], ts: float) -> list[Change]:
    """The entries to write for changes at `ts`, Unix seconds (UTC)."""
    return [
        Change(TOPIC, entry_key(change.item_id, name), _encode(value, ts))
        for change in changes
        for name, value in change.values.items()
    ]


def entry_key(item_id: str, field: str) -> str:
    """The key of an item's field: the field, percent-encoded, a slash and the item id."""
    return f"{quote(field, safe='')}/{item_id}"


def read_key(key: str) -> tuple[str, str]:
    """The inverse of `entry_key`: item id and field."""
    field, _, item_id = key.partition("/")
    return item_id, unquote(field)


def read_entry(key: str, value: bytes) -> ItemEntry:
    """Parse an entry of the live state. Raises ValueError for unknown content."""
    item_id, field = read_key(key)
    try:
        content = json.loads(value)
        entry = ItemEntry(item_id, field, content["value"], float(content["ts"]))
        ItemChange(item_id, {field: entry.value})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"live state, {TOPIC} {key!r}: {type(error).__name__}: {error}") from error
    return entry


def group_by_item(entries: Iterable[ItemEntry]) -> dict[str, dict[str, Any]]:
    """Returns item id → field → value."""
    items: dict[str, dict[str, Any]] = {}
    for entry in entries:
        items.setdefault(entry.item_id, {})[entry.field] = entry.value
    return items


def is_placeable(fields: Collection[str]) -> bool:
    """Whether these live fields are enough for a new item; stock and price alone are not."""
    return any(name in fields for name in TEXT_FIELDS)


def merged_until(manifest: Mapping[str, Any]) -> float:
    """The time up to which entries are part of the bundle, Unix seconds (UTC); minus infinity for none."""
    until = manifest["export"].get(UNTIL)
    return float("-inf") if until is None else float(until) - MAX_CLOCK_DIFFERENCE


def _encode(value: Any, ts: float) -> bytes | None:
    if value is None:
        return None
    return json.dumps({"value": value, "ts": round(ts, 3)}, ensure_ascii=False).encode()


def _value_error(name: str, value: Any) -> str:
    """The reason why a field cannot have this value; "" for a valid value."""
    if name == "available":
        return "" if isinstance(value, bool) else f"{value!r} is neither true nor false"
    if name == "price":
        is_price = _is_number(value) and 0 <= value <= MAX_NUMBER
        return "" if is_price else f"{value!r} is not a number from 0 to {MAX_NUMBER:g}"
    if name == "category":
        return (
            "" if isinstance(value, str) and CATEGORY_NAME.search(value) else f"{value!r} is not a path a/b/c"
        )
    if name in TEXT_FIELDS:
        return "" if isinstance(value, str) and value.strip() else f"{value!r} is not a text"
    if name.startswith(GROUPS["attributes"]):
        is_value = isinstance(value, str) or (_is_number(value) and abs(value) <= MAX_NUMBER)
        return "" if is_value else f"{value!r} is neither text nor a finite number"
    if name.startswith(GROUPS["vectors"]):
        return "" if _is_vector(value) else "expected a list of finite numbers"
    return "unknown field"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_FLOAT <= value <= MAX_FLOAT


def _is_vector(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) > 0 and all(map(_is_number, value))
