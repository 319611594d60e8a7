"""The lines that preparation prints: counts of the log, columns that are read, and columns that are not."""

from typing import Any

from data.examples.splits import EXCLUDED
from data.feature_schema import Attribute, FeatureSchema
from data.tables.column_selection import UnreadColumns

FURTHER_COUNTS = {  # key of `counts` → text, printed if the count is above 0
    "guest_orders": "orders of guests",
    "forgotten": "rows of forgotten users dropped",
    "returns": "returns",
    "rejected": "rejected",
    "repeated": "repeated rows, counted once",
    "winsorized": "lines of absurd size, winsorised",
    "unlisted_items": "items that orders have and the list of items lacks",
}
CLICK_LABELS = {
    "logged": "clicks as logged",
    "leaf_category_proxy": "no clicks (a purchase in the item's leaf category counts as a click)",
}


def describe_columns(
    schema: FeatureSchema, unread: UnreadColumns, unread_kinds: dict[str, int]
) -> dict[str, Any]:
    """Returns `columns` of meta.json: the further columns that are read, and unread columns with reasons."""
    return {
        "orders": [_describe_attribute(a) for a in schema.context],
        "users": [_describe_attribute(a) for a in schema.profile],
        "items": [_describe_attribute(a) for a in schema.item_attributes],
        "vectors": [f"{vector.name} ({vector.dim})" for vector in schema.item_vectors],
        "unread": {name: columns for name, columns in unread.items() if columns},
        "unread_kinds": unread_kinds,
    }


def summary(meta: dict[str, Any]) -> str:
    """The counts of meta.json as one line."""
    counts = meta["counts"]
    n = counts["checkouts"]
    n_outside = sum(n[name] for name in EXCLUDED if name != "immature")
    further_counts = [f"{counts[k]:,} {title}" for k, title in FURTHER_COUNTS.items() if counts.get(k)]
    if repeated := meta.get("repeated_rows"):
        tables = ", ".join(f"{name} {n:,}" for name, n in repeated.items())
        title = FURTHER_COUNTS["repeated"]
        further_counts = [f"{text} ({tables})" if text.endswith(title) else text for text in further_counts]
    if n_withheld := sum(meta.get("ghosts", {}).values()):
        further_counts.append(f"{n_withheld:,} checkouts with a withheld slate")
    positives = [
        f"{label}: "
        + " / ".join(f"{n:,}" for n in meta["labels_with_positive"][label].values())
        + " positive"
        for label in meta.get("labels", [])
    ]
    return ", ".join(
        [
            f"{counts['orders']:,} orders of {counts['users']:,} users, {counts['items']:,} items",
            f"{n['train']:,} train / {n['validation']:,} validation / {n['test']:,} test checkouts",
            f"{n['immature']:,} immature",
            f"{n_outside:,} in no split (outside the dates, or their horizon reaches the next split)",
            *further_counts,
            CLICK_LABELS[meta["click"]],
            *positives,
        ]
    )


def column_summary(meta: dict[str, Any]) -> str:
    """One line with the further columns that are read and those that are not. "" if there are none."""
    columns = meta.get("columns") or {}
    titles = {"orders": "order attributes", "users": "user attributes", "items": "item attributes",
              "vectors": "vectors"}  # fmt: skip
    parts = [f"{title}: {', '.join(columns[key])}" for key, title in titles.items() if columns.get(key)]
    unread = [
        f"{table}.{column} ({reason})"
        for table, reasons in columns.get("unread", {}).items()
        for column, reason in reasons.items()
    ]
    unread += [
        f"events of kind {kind} ({rows:,}; a task with label: {kind} reads them)"
        for kind, rows in columns.get("unread_kinds", {}).items()
    ]
    return "; ".join([*parts, *([f"not read: {', '.join(unread)}"] if unread else [])])


def _describe_attribute(attribute: Attribute) -> str:
    """Describes an attribute, such as `color (2 values)` or `weight_kg (numeric)`."""
    n = None if attribute.values is None else len(attribute.values)
    return f"{attribute.name} ({'numeric' if n is None else '1 value' if n == 1 else f'{n:,} values'})"
