"""Queries of the shop page: items, households and past orders, as values for JSON."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.checkout import HISTORY_KINDS
from serving.storage.bundle import Bundle
from serving.stores.base import UserHistory

PURCHASE_KIND = HISTORY_KINDS.index("purchase")


def search_items(bundle: Bundle, query: str, limit: int) -> list[dict[str, Any]]:
    """The most popular available items whose titles contain every word of the query, ignoring case."""
    matches = bundle.fallback_rank >= 0
    titles = pc.utf8_lower(bundle.title)
    for word in query.lower().split():
        contains_word = pc.fill_null(pc.match_substring(titles, word), False)
        matches = matches & contains_word.to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(matches)
    most_popular = rows[np.argsort(bundle.fallback_rank[rows], kind="stable")[:limit]]
    return [_item_json(bundle, row) for row in most_popular.tolist()]


def household_table(store_table: pa.Table | None) -> pa.Table:
    """Returns the `user_id` and the number of `events` of each row of a `store.arrow`, by `user_id`."""
    if store_table is None:
        return pa.table({"user_id": pa.array([], pa.string()), "events": pa.array([], pa.int32())})
    return pa.table({"user_id": store_table["user_id"], "events": pc.list_value_length(store_table["ts"])})


def search_households(households: pa.Table, prefix: str, limit: int) -> list[dict[str, Any]]:
    """Households whose id starts with `prefix`; without a prefix, a sample from long to short histories."""
    if prefix:
        chosen = households.filter(pc.starts_with(households["user_id"], prefix))[:limit]
    else:
        order = pc.sort_indices(households, [("events", "descending"), ("user_id", "ascending")])
        sample = np.linspace(0, len(order), limit, endpoint=False).astype(np.int64)
        chosen = households.take(order.take(np.unique(sample))) if len(order) else households
    rows: list[dict[str, Any]] = chosen.to_pylist()
    return rows


def past_orders(history: UserHistory, bundle: Bundle, limit: int) -> list[dict[str, Any]]:
    """The latest orders, newest first. Histories lack order ids, so purchases of one second are one order."""
    orders: dict[int, list[dict[str, Any]]] = {}
    for position in np.flatnonzero(history.kind == PURCHASE_KIND)[::-1].tolist():
        ts = int(history.ts[position])
        if ts not in orders and len(orders) == limit:
            break
        item_id, price = history.item_id[position], float(history.price[position])
        line = _item_json(bundle, bundle.item_rows.row(item_id)) | {"item_id": item_id}
        line["title"] = line["title"] or item_id
        line["quantity"] = float(history.quantity[position])
        line["price"] = line["price"] if math.isnan(price) else round(price, 6)
        orders.setdefault(ts, []).insert(0, line)
    return [{"ts": ts, "lines": lines} for ts, lines in orders.items()]


def _item_json(bundle: Bundle, row: int) -> dict[str, Any]:
    return {
        "item_id": bundle.item_id[row].as_py(),
        "title": bundle.title[row].as_py() or "",
        "category": bundle.category[row].as_py() or "",
        # float32: 1.29 would read 1.2899999618530273. Row 0, no item, has the price of the usual one.
        "price": round(float(bundle.price[row]), 6) if row else 0.0,
    }
