"""The clean canonical tables as one coded log: what examples, snapshots and the store are made of.

Items, users and orders get dense integers: joins and lists of small integers are several times cheaper
than those of strings. Orders are numbered by time, so that a range of codes is a range of time.
"""

from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from data.io import engine
from data.tables.contract import ITEMS, attribute_columns
from models.schema import HISTORY_KINDS

PURCHASE, CLICK, CART = (HISTORY_KINDS.index(k) for k in ("purchase", "click", "cart"))


class EncodedTables(NamedTuple):
    items: ir.Table  # item (1..N), item_id, listed and the columns of the canonical table
    users: ir.Table  # user (0..), user_id, profile_<name>
    checkouts: ir.Table  # order (0.. by time), order_id, user, ts, available, context_<name>
    lines: ir.Table  # order, user, item, ts, available, quantity, price; one per order and item
    events: ir.Table  # user, item, ts, available, kind (string), order (-1: none given), value, position
    context_names: list[str]
    profile_names: list[str]
    start: int  # first checkout, Unix seconds
    end: int  # last checkout
    clicks_logged: bool
    impressions_logged: bool
    has_late_arrivals: bool  # some fact became available after its own time


def encode_tables(con: ibis.BaseBackend, tables: dict[str, ir.Table]) -> EncodedTables:
    """Codes the tables and materializes the result in `con`.

    `available` is when a fact could be known: its time, or the ingestion time where that is later. A
    checkout's ts is the latest of its lines'. The same item twice in an order becomes one line, quantities
    added, price weighted by quantity. An ordered item that `items` does not list is kept with only an id.
    """
    orders, events = tables["orders"], tables.get("events")
    users, context = tables.get("users"), attribute_columns(orders, "orders")
    profile = attribute_columns(users, "users") if users is not None else []

    heads = orders.group_by("order_id").agg(
        user_id=orders.user_id.max(),
        ts=orders.ts.max(),
        available=_available(orders).max(),
        **{f"context_{c}": orders[c].max() for c in context},
    )
    heads = heads.mutate(
        order=ibis.row_number().over(order_by=[heads.ts, heads.order_id]).cast("int64"),
        available=ibis.greatest(heads.ts, heads.available),
    )
    heads = engine.materialize(con, "heads", heads)
    item_codes = engine.materialize(con, "item_codes", _items(orders, tables["items"], events))
    user_codes = engine.materialize(con, "user_codes", _users(orders, users, events))

    checkouts = engine.materialize(
        con,
        "checkouts",
        heads.join(user_codes.select("user_id", "user"), "user_id").select(
            "order", "order_id", "user", "ts", "available", *[f"context_{c}" for c in context]
        ),
    )
    lines = engine.materialize(con, "lines", _lines(orders, checkouts, item_codes))
    coded = engine.materialize(con, "coded_events", _events(events, checkouts, user_codes, item_codes, lines))
    bounds = con.to_pyarrow(checkouts.agg(a=checkouts.ts.min(), b=checkouts.ts.max())).to_pylist()[0]
    clicks, impressions = (
        bool(con.execute((coded.kind == kind).any().fill_null(False))) for kind in ("click", "impression")
    )
    late = any(bool(con.execute((t.available > t.ts).any().fill_null(False))) for t in (lines, coded))
    return EncodedTables(
        item_codes,
        user_codes,
        checkouts,
        lines,
        coded,
        context,
        profile,
        bounds["a"],
        bounds["b"],
        clicks,
        impressions,
        late,
    )


def _available(t: ir.Table) -> ir.Value:
    return ibis.greatest(t.ts, t.ingested_at.fill_null(t.ts))


def _items(orders: ir.Table, items: ir.Table, events: ir.Table | None) -> ir.Table:
    """Listed items in file order, then the others by their first use: later rows never move earlier ones."""
    used = orders.select("item_id", "ts")
    if events is not None:
        used = used.union(events.select("item_id", "ts"))
    used = used.group_by("item_id").agg(_row=ibis._.ts.min())
    unlisted = used.anti_join(items, "item_id").mutate(listed=False)
    listed = items.select("_row", *ITEMS).mutate(listed=True)
    nulls = {c: ibis.null(listed[c].type()) for c in ITEMS if c != "item_id"}
    unlisted = unlisted.mutate(**nulls).select(*listed.columns)
    both = listed.union(unlisted)
    order = [both.listed.desc(), both["_row"], both.item_id]
    return both.mutate(item=(ibis.row_number().over(order_by=order) + 1).cast("int32")).drop("_row")


def _users(orders: ir.Table, users: ir.Table | None, events: ir.Table | None) -> ir.Table:
    known = orders.select("user_id")
    for other in (users, events):
        if other is not None:
            known = known.union(other.select("user_id"))
    known = known.distinct()
    known = known.mutate(user=ibis.row_number().over(order_by=known.user_id).cast("int32"))
    if users is None:
        return known
    profile = {f"profile_{c}": users[c] for c in attribute_columns(users, "users")}
    return known.left_join(users.select("user_id", **profile), "user_id").drop("user_id_right")


def _lines(orders: ir.Table, checkouts: ir.Table, items: ir.Table) -> ir.Table:
    """One line per order and item. Lines stand at their checkout's time, as the basket does."""
    t = orders.select("order_id", "item_id", "quantity", "price", known=_available(orders))
    t = t.join(items.select("item_id", "item"), "item_id")
    t = t.join(checkouts.select("order_id", "order", "user", "ts"), "order_id")
    t = t.group_by("order", "item").agg(
        user=t.user.max(),
        ts=t.ts.max(),
        available=ibis.greatest(t.ts.max(), t.known.max()),
        spent=(t.quantity * t.price).sum(),
        quantity=t.quantity.sum(),
    )
    return t.mutate(price=t.spent / t.quantity)


def _events(
    events: ir.Table | None, checkouts: ir.Table, users: ir.Table, items: ir.Table, lines: ir.Table
) -> ir.Table:
    """Coded events. An order_id that no order has is -2: the event belongs to a checkout we do not know.

    Positions count from 1, 0 for unknown; those of a log that counts from 0 are moved up by one.
    """
    if events is None:
        return lines.limit(0).select(
            "user", "item", "ts", "available", kind=ibis.literal(""), order=lines.order, value=lines.spent,
            position=ibis.literal(0),
        )  # fmt: skip
    t = events.mutate(available=_available(events))
    t = t.join(items.select("item_id", "item"), "item_id").join(users.select("user_id", "user"), "user_id")
    t = t.left_join(checkouts.select("order_id", "order"), "order_id")
    order = ibis.coalesce(t.order, ibis.ifelse(t.order_id.isnull(), -1, -2))
    up = ibis.ifelse(t.position.min().over(ibis.window()) < 1, 1, 0)
    position = (t.position.floor() + up).fill_null(0)
    return t.select(
        "user", "item", "ts", "available", "kind", order=order.cast("int64"), value=t.value,
        position=position.cast("int64"),
    )  # fmt: skip
