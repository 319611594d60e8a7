"""Histories: the events of a user that were known before a checkout.

    events by the time they were known    a  b  c | d  e  f …
    a checkout at |                       [a  b  c]

The events of each user are one sorted list. A history is a slice of that list. A running count gives the end
of the slice, so nothing is grouped or sorted per checkout.
"""

import ibis
import ibis.expr.types as ir

from data.io import lists
from data.tables.encoded_tables import CART, CLICK, PURCHASE, EncodedTables

HISTORY_TYPES = {"item": "int32", "ts": "int64", "kind": "int8", "quantity": "float32", "price": "float32"}


def history_events(encoded: EncodedTables) -> ir.Table:
    """All history events: `user, available_at, ts, item, quantity, price, kind, seq`.

    History events are order lines, clicks and carts. Purchase events would repeat order lines, and
    impressions are not actions of the user.
    """
    lines = encoded.lines.select(
        "user",
        "available_at",
        "ts",
        "item",
        "quantity",
        "price",
        kind=ibis.literal(PURCHASE),
        seq=encoded.lines.order,
    )
    e = encoded.events.filter(encoded.events.kind.isin(["click", "cart"]))
    events = e.select(
        "user",
        "available_at",
        "ts",
        "item",
        quantity=ibis.literal(1.0),
        price=ibis.literal(0.0),
        kind=ibis.ifelse(e.kind == "click", CLICK, CART),
        seq=ibis.literal(-1),  # at the same time a click comes before a purchase
    )
    types = {**HISTORY_TYPES, "seq": "int64"}
    return lines.cast(types).union(events.select(*lines.columns).cast(types))


def history_lists(encoded: EncodedTables) -> ir.Table:
    """Returns each user's lists `history_{item,ts,kind,quantity,price}`, in the order of `available_at`.

    With late arrivals there is also a list `history_seq`, and `slice_history` sorts each slice by time.
    """
    columns = [*HISTORY_TYPES, "seq"] if encoded.has_late_arrivals else [*HISTORY_TYPES]
    return lists.collect_lists(
        history_events(encoded),
        "user",
        {f"history_{c}": c for c in columns},
        ["available_at", "ts", "seq", "item", "kind"],
    )


def slice_history(
    t: ir.Table, first: ir.Value, last: ir.Value, has_late_arrivals: bool
) -> dict[str, ir.Value]:
    """Returns the history columns: the slice [first, last) of the `history_lists`, oldest first."""
    if not has_late_arrivals:
        return {f"history_{c}": t[f"history_{c}"][first:last] for c in HISTORY_TYPES}
    # Structs compare field by field, so sorting them sorts by time.
    order = ["ts", "seq", "item", "kind", "quantity", "price"]
    slices = [t[f"history_{c}"][first:last] for c in order]
    events = slices[0].zip(*slices[1:]).sort()
    return {f"history_{c}": lists.extract_field(events, f"f{order.index(c) + 1}") for c in HISTORY_TYPES}


def count_prior_events(encoded: EncodedTables) -> ir.Table:
    """Counts the user's events and orders known strictly before: `order, n_history, n_prior_orders`."""
    types = {
        "user": "int32", "at": "int64", "rank": "int8", "order": "int64", "is_event": "int8",
        "is_order": "int8",
    }  # fmt: skip
    checkouts = encoded.checkouts
    events = history_events(encoded).select(
        "user", at="available_at", rank=1, order=-1, is_event=1, is_order=0
    )  # fmt: skip
    orders = checkouts.select("user", at="available_at", rank=1, order=-1, is_event=0, is_order=1)
    queries = checkouts.select("user", at="ts", rank=0, order="order", is_event=0, is_order=0)
    t = events.cast(types).union(orders.cast(types)).union(queries.cast(types))
    # At equal times the query (rank 0) comes before the events (rank 1), so only earlier events count.
    window = ibis.window(group_by="user", order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(n_history=t.is_event.sum().over(window), n_prior_orders=t.is_order.sum().over(window))
    return t.filter(t["rank"] == 0).select("order", "n_history", "n_prior_orders")
