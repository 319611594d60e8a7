"""The canonical tables with integer codes for items, users and orders: the input of examples and snapshots.

Joins and lists of small integers are several times cheaper than joins and lists of strings. Orders are
numbered by time, so a range of order codes is a range of time.
"""

from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from data.io import engine
from data.tables.contract import ITEMS, attribute_columns
from models.constants import HISTORY_KINDS

PURCHASE, CLICK, CART = (HISTORY_KINDS.index(k) for k in ("purchase", "click", "cart"))


class EncodedTables(NamedTuple):
    """The encoded tables.

    `available_at` is the time at which a row became known: its time, or its later ingestion.
    """

    # item (1..N), item_id, listed, the columns of the canonical table, attribute_<name>
    items: ir.Table
    users: ir.Table  # user (0..), user_id, profile_<name>
    # order (0.. by time), order_id, user, ts, available_at, is_guest, context_<name>. A guest's order has a
    # user of its own, which `users` lacks.
    checkouts: ir.Table
    # order, user, item, ts, available_at, quantity, price, spend, returned_at (null for never); one per order
    # and item
    lines: ir.Table
    # user, item, ts, available_at, kind (string), order (-1: none given), value, position, withhold
    events: ir.Table
    context_names: list[str]
    profile_names: list[str]
    item_attribute_names: list[str]
    start: int  # first checkout, Unix seconds
    end: int  # last checkout
    clicks_logged: bool
    impressions_logged: bool
    has_late_arrivals: bool  # some row became available after its own time


def encode_tables(
    con: ibis.BaseBackend, tables: dict[str, ir.Table], return_lines: ir.Table | None = None
) -> EncodedTables:
    """Encode the checked canonical tables and materialize the result in `con`.

    A checkout's ts is the latest ts of its lines. Lines of the same item in an order become one line with the
    summed quantity and the mean price. An ordered item that is missing in `items` gets a row that has only
    the id.

    `return_lines` are the checked lines with a negative quantity. An order line is returned at the first
    return of its user and item at or after it. None leaves `returned_at` null.
    """
    orders, events = tables["orders"], tables.get("events")
    users, context = tables.get("users"), attribute_columns(orders, "orders")
    profile = attribute_columns(users, "users") if users is not None else []

    headers = engine.materialize(con, "order_headers", _order_headers(orders, context))
    item_codes = engine.materialize(con, "item_codes", _items(orders, tables["items"], events))
    user_codes = engine.materialize(con, "user_codes", _users(orders, users, events))
    checkouts = engine.materialize(con, "checkouts", _checkouts(con, headers, user_codes, context))
    lines = _lines(orders, checkouts, item_codes)
    if return_lines is not None:
        lines = engine.materialize(con, "lines_without_returns", lines)
        lines = _add_returned_at(lines, return_lines, user_codes, item_codes)
    else:
        lines = lines.mutate(returned_at=ibis.null("int64"))
    lines = engine.materialize(con, "lines", lines)
    encoded_events = engine.materialize(
        con, "encoded_events", _events(events, checkouts, user_codes, item_codes, lines)
    )
    bounds = con.to_pyarrow(checkouts.agg(start=checkouts.ts.min(), end=checkouts.ts.max())).to_pylist()[0]
    return EncodedTables(
        items=item_codes,
        users=user_codes,
        checkouts=checkouts,
        lines=lines,
        events=encoded_events,
        context_names=context,
        profile_names=profile,
        item_attribute_names=attribute_columns(tables["items"], "items"),
        start=bounds["start"],
        end=bounds["end"],
        clicks_logged=_has_any(con, encoded_events.kind == "click"),
        impressions_logged=_has_any(con, encoded_events.kind == "impression"),
        has_late_arrivals=any(_has_any(con, t.available_at > t.ts) for t in (lines, encoded_events)),
    )


def _has_any(con: ibis.BaseBackend, condition: ir.BooleanColumn) -> bool:
    return bool(con.execute(condition.any().fill_null(False)))


def _available_at(t: ir.Table) -> ir.Value:
    return ibis.greatest(t.ts, t.ingested_at.fill_null(t.ts))


def _order_headers(orders: ir.Table, context: list[str]) -> ir.Table:
    """Returns a row per order: `order` (by time), `order_id, user_id, ts, available_at` and the context."""
    headers = orders.group_by("order_id").agg(
        user_id=orders.user_id.max(),
        ts=orders.ts.max(),
        available_at=_available_at(orders).max(),
        **{f"context_{c}": orders[c].max() for c in context},
    )
    return headers.mutate(
        order=ibis.row_number().over(order_by=[headers.ts, headers.order_id]).cast("int64"),
        available_at=ibis.greatest(headers.ts, headers.available_at),
    )


def _checkouts(con: ibis.BaseBackend, headers: ir.Table, users: ir.Table, context: list[str]) -> ir.Table:
    """The checkouts of `EncodedTables`.

    Each guest order has a user code of its own, so guests have no history.
    """
    n_users = int(con.execute(users.count()))
    t = headers.left_join(users.select("user_id", "user"), "user_id")
    return t.select(
        "order",
        "order_id",
        "ts",
        "available_at",
        user=ibis.coalesce(t.user, (t.order + n_users).cast("int32")),
        is_guest=t.user.isnull(),
        **{f"context_{c}": t[f"context_{c}"] for c in context},
    )


def _items(orders: ir.Table, items: ir.Table, events: ir.Table | None) -> ir.Table:
    """Listed items in file order, then unlisted items by first use.

    So new rows do not change earlier codes.
    """
    used = orders.select("item_id", "ts")
    if events is not None:
        used = used.union(events.select("item_id", "ts"))
    used = used.group_by("item_id").agg(_row=ibis._.ts.min())
    unlisted = used.anti_join(items, "item_id").mutate(listed=False)
    attributes = {f"attribute_{c}": items[c] for c in attribute_columns(items, "items")}
    listed = items.select("_row", *ITEMS, **attributes).mutate(listed=True)
    nulls = {c: ibis.null(listed[c].type()) for c in (*ITEMS, *attributes) if c != "item_id"}
    unlisted = unlisted.mutate(**nulls).select(*listed.columns)
    all_items = listed.union(unlisted)
    order = [all_items.listed.desc(), all_items["_row"], all_items.item_id]
    code = (ibis.row_number().over(order_by=order) + 1).cast("int32")
    return all_items.mutate(item=code).drop("_row")


def _users(orders: ir.Table, users: ir.Table | None, events: ir.Table | None) -> ir.Table:
    """All users of the three tables, coded by user_id, with the profile columns. No guests."""
    all_users = orders.select("user_id")
    for table in (users, events):
        if table is not None:
            all_users = all_users.union(table.select("user_id"))
    all_users = all_users.filter(all_users.user_id.notnull()).distinct()
    all_users = all_users.mutate(user=ibis.row_number().over(order_by=all_users.user_id).cast("int32"))
    if users is None:
        return all_users
    profile = {f"profile_{c}": users[c] for c in attribute_columns(users, "users")}
    return all_users.left_join(users.select("user_id", **profile), "user_id").drop("user_id_right")


def _lines(orders: ir.Table, checkouts: ir.Table, items: ir.Table) -> ir.Table:
    """One line per order and item, with the ts of its checkout."""
    t = orders.select("order_id", "item_id", "quantity", "price", available_at=_available_at(orders))
    t = t.join(items.select("item_id", "item"), "item_id")
    t = t.join(checkouts.select("order_id", "order", "user", "ts"), "order_id")
    t = t.group_by("order", "item").agg(
        user=t.user.max(),
        ts=t.ts.max(),
        available_at=ibis.greatest(t.ts.max(), t.available_at.max()),
        spend=(t.quantity * t.price).sum(),
        quantity=t.quantity.sum(),
    )
    return t.mutate(price=t.spend / t.quantity)


def _add_returned_at(lines: ir.Table, returns: ir.Table, users: ir.Table, items: ir.Table) -> ir.Table:
    """Add `returned_at`: the first return of the line's user and item that is not before the line."""
    t = returns.select("user_id", "item_id", return_ts="ts")
    t = t.join(users.select("user_id", "user"), "user_id").join(items.select("item_id", "item"), "item_id")
    t = lines.select("order", "user", "item", "ts").join(
        t.select("user", "item", "return_ts"), ["user", "item"]
    )
    t = t.filter(t.return_ts >= t.ts).group_by("order", "item").agg(returned_at=ibis._.return_ts.min())
    return lines.left_join(t, ["order", "item"]).drop("order_right", "item_right")


def _events(
    events: ir.Table | None, checkouts: ir.Table, users: ir.Table, items: ir.Table, lines: ir.Table
) -> ir.Table:
    """Encodes the events. `order` is -2 for an unknown order_id, which joins no checkout.

    Positions count from 1 and 0 means unknown; a log whose positions start at 0 is raised by one.
    """
    if events is None:
        return lines.limit(0).select(
            "user", "item", "ts", "available_at", kind=ibis.literal(""), order=lines.order,
            value=lines.spend, position=ibis.literal(0), withhold=ibis.literal(0.0),
        )  # fmt: skip
    t = events.mutate(available_at=_available_at(events))
    t = t.join(items.select("item_id", "item"), "item_id").join(users.select("user_id", "user"), "user_id")
    t = t.left_join(checkouts.select("order_id", "order"), "order_id")
    order = ibis.coalesce(t.order, ibis.ifelse(t.order_id.isnull(), -1, -2))
    shift = ibis.ifelse(t.position.min().over(ibis.window()) < 1, 1, 0)
    position = (t.position.floor() + shift).fill_null(0)
    return t.select(
        "user", "item", "ts", "available_at", "kind", order=order.cast("int64"), value=t.value,
        position=position.cast("int64"), withhold=t.withhold.fill_null(0.0),
    )  # fmt: skip
