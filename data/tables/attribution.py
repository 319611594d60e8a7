"""What was shown, and what came of it: joins the feedback of an impression log with its impressions.

    click of (request, item)   ─▶ the impression of that item in that slate            ╮  inside its window:
    click of (user, item)      ─▶ the latest impression of that item to that user      ├─▶ an event with the
    impression without order   ─▶ the latest checkout of its user at or before it      ╯   checkout's order_id

Any table of events with a column `request_id` is such a log; `serving.ImpressionLog` writes one. The rules
stand in docs/architecture.md; whatever they leave out is counted. `data/examples/checkouts.py` makes outcomes
of the result.
"""

import re

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.io import engine
from data.tables.contract import EVENT_KINDS
from serving.checkout import MAX_CLOCK_SKEW

NO_CHECKOUT = "none"  # order_id of what belongs to no checkout: it is a fact of its user, and no outcome
UNIT_SECONDS = {"d": 86_400, "h": 3600, "m": 60}
JOIN_STATES = ("joined", "repeated", "unknown", "early", "late")
UNBOUNDED_WINDOW = 2**40  # seconds


def window_seconds(window: str) -> int:
    """Seconds of a window such as "1d", "12h" or "30m". Raises DataError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,3})([dhm])", str(window))
    if not match:
        raise DataError(f"data.click_window is '{window}', expected a number of days, hours or minutes: 1d")
    return int(match.group(1)) * UNIT_SECONDS[match.group(2)]


def attribute_feedback(
    con: ibis.BaseBackend, log: ir.Table, orders: ir.Table, click_window: int, purchase_window: int | None
) -> tuple[ir.Table, dict[str, dict[str, int]]]:
    """The conformed table `events` of a log → the same columns with users, checkouts and times joined.

    Rows that are no events, for they lack an item, a time, a kind or whom they are of, are left as they are
    for `data/tables/checks.py` to reject. Also gives how many rows there were of each kind, and what
    became of them.

    Args:
        orders: conformed; may hold bad rows and returns.
        click: seconds after the impression in which clicks and carts count.
        purchase: the same for purchases; None where the horizon ends with the next order.
    """
    named = {c: log[c].nullif("") for c in ("user_id", "order_id", "request_id")}
    whole = _is_complete(log)
    good = engine.materialize(con, "log_good", log.filter(whole).mutate(**named))
    shown = engine.materialize(
        con, "log_shown", _join_impressions(good, engine.materialize(con, "log_orders", _checkouts(orders)))
    )
    found = engine.materialize(
        con, "log_feedback", _join_feedback(good, shown, click_window, purchase_window)
    )
    people = shown.filter(shown.buyer.notnull())
    joined = found.filter(found.state == "joined", found.buyer.notnull())
    aside = found.filter(found.state.isin(["unknown", "early", "late"]), found.kind != "purchase")
    aside = aside.mutate(user_id=ibis.coalesce(aside.user_id, aside.buyer)).filter(ibis._.user_id.notnull())
    same = ibis.window(group_by=["user_id", "item_id", "ts", "kind"], order_by="_row")
    aside = aside.mutate(again=ibis.row_number().over(same)).filter(ibis._.again == 0)
    parts = [
        people.mutate(user_id=people.buyer, order_id=people.checkout, ts=people.since),
        joined.mutate(
            user_id=joined.buyer,
            order_id=joined.checkout,
            ts=ibis.greatest(joined.ts, joined.since),
            request_id=joined.request,
        ),
        aside.mutate(order_id=ibis.literal(NO_CHECKOUT)),
        log.filter(~whole),
    ]
    types = dict(log.schema().items())
    events, *others = [part.select(*types).cast(types) for part in parts]
    for other in others:
        events = events.union(other)
    counts = _count_join_states(con, good, shown, found)
    return engine.materialize(con, "log_events", events), counts


def _is_complete(log: ir.Table) -> ir.BooleanValue:
    """True for rows that are events; false, never null, for what the checks must see."""
    whole = (log.item_id.fill_null("") != "") & log.ts.notnull() & log.kind.isin(EVENT_KINDS).fill_null(False)
    someone = (log.user_id.fill_null("") != "") | (log.request_id.fill_null("") != "")
    for c in log.columns:
        if c.startswith("_raw_"):
            whole &= log[c].isnull()
    return whole & (someone | (log.kind == "impression").fill_null(False))


def _checkouts(orders: ir.Table) -> ir.Table:
    """`number (by time), checkout, buyer, paid`, as `data/tables/coded_log.py` makes them."""
    t = orders.filter(orders.order_id.notnull(), orders.user_id.notnull(), orders.quantity > 0)
    t = t.filter(t.ts.notnull()).group_by(checkout="order_id").agg(buyer=t.user_id.max(), paid=t.ts.max())
    return t.mutate(number=ibis.row_number().over(order_by=[t.paid, t.checkout]).cast("int64"))


def _join_impressions(good: ir.Table, checkouts: ir.Table) -> ir.Table:
    """A row per request and item that was shown, and `slot` (by time), `buyer`, `checkout`, `since`, `known`.

    The buyer is the user it was shown to; a guest is whom `orders` names for the order. `since` is its time,
    not before the checkout's: an outcome that looks as if it came first would be in the history.
    """
    t = good.filter(good.kind == "impression")
    t = t.mutate(request=ibis.coalesce(t.request_id, ibis.literal("row ") + t["_row"].cast("string")))
    first = ibis.window(group_by=["request", "item_id"], order_by=["ts", "position", "_row"])
    t = t.mutate(again=ibis.row_number().over(first)).filter(ibis._.again == 0).drop("again")
    marks = checkouts.select(at="paid", number="number", user_id="buyer")
    loose = _asof_join(marks, t.filter(t.order_id.isnull(), t.user_id.notnull()), ["user_id"])
    named = t.join(checkouts.select("number", order_id="checkout"), "order_id").select("_row", "number")
    t = t.left_join(named.union(loose), "_row").drop("_row_right")
    t = t.left_join(checkouts, "number").drop("number", "number_right")
    user = ibis.coalesce(t.user_id, t.buyer)
    return t.mutate(
        slot=ibis.row_number().over(order_by=[t.ts, t["_row"]]).cast("int64"),
        known=(t.buyer == user).fill_null(False),
        buyer=user,
        checkout=ibis.coalesce(t.order_id, t.checkout, ibis.literal(NO_CHECKOUT)),
        since=ibis.greatest(t.ts, t.paid.fill_null(t.ts)),
    ).drop("paid")


def _join_feedback(good: ir.Table, shown: ir.Table, click: int, purchase: int | None) -> ir.Table:
    """Clicks, carts and purchases with their impression's columns and a `state` of STATES."""
    t = good.filter(good.kind != "impression")
    exact = t.filter(t.request_id.notnull())
    exact = exact.join(shown.select("item_id", "slot", request_id="request"), ["request_id", "item_id"])
    marks = shown.filter(shown.buyer.notnull()).select("item_id", at="ts", number="slot", user_id="buyer")
    latest = _asof_join(marks, t.filter(t.request_id.isnull()), ["user_id", "item_id"])
    slots = exact.select("_row", "slot").union(latest.select("_row", slot="number"))
    t = t.left_join(slots, "_row").drop("_row_right")
    columns = shown.select("slot", "buyer", "checkout", "since", "request", shown_at="ts")
    t = t.left_join(columns, "slot").drop("slot_right")
    limit = ibis.ifelse(t.kind == "purchase", UNBOUNDED_WINDOW if purchase is None else purchase, click)
    state = ibis.cases(
        (t.slot.isnull(), "unknown"),
        (t.ts < t.shown_at - MAX_CLOCK_SKEW, "early"),
        (t.ts > t.shown_at + limit, "late"),
        else_="joined",
    )
    t = t.mutate(state=state)
    # One of a kind for an impression, the first: what is sent twice is neither clicked nor paid twice.
    again = ibis.row_number().over(group_by=["slot", "kind", "state"], order_by=["ts", "_row"]) > 0
    repeated = (t.state == "joined") & again
    return t.mutate(state=ibis.ifelse(repeated, "repeated", t.state))


def _asof_join(marks: ir.Table, asks: ir.Table, keys: list[str]) -> ir.Table:
    """`_row, number` of `asks`: the latest of the marks (`at, number`) with the same keys, at or before it.

    Numbers rise with time, so the running maximum is the latest so far. Null where there is none.
    """
    types = {"at": "int64", "rank": "int8", "number": "int64", "row": "int64"}
    none = ibis.null("int64")
    a = marks.select(*keys, at="at", rank=ibis.literal(0), number="number", row=none)
    b = asks.select(*keys, at="ts", rank=ibis.literal(1), number=none, row="_row")
    t = a.cast(types).union(b.cast(types))
    so_far = ibis.window(group_by=keys, order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(number=t.number.max().over(so_far))
    return t.filter(t["rank"] == 1).select("number", _row="row").select("_row", "number")


def _count_join_states(
    con: ibis.BaseBackend, good: ir.Table, shown: ir.Table, found: ir.Table
) -> dict[str, dict[str, int]]:
    """Rows of each kind by what became of them; of the impressions those that will have no example."""
    logged = int(con.execute((good.kind == "impression").sum().fill_null(0)))
    there, guests, strays = con.to_pyarrow(
        shown.agg(
            there=shown.count(),
            guests=shown.buyer.isnull().sum().fill_null(0),
            strays=(shown.buyer.notnull() & ~shown.known).sum().fill_null(0),
        )
    ).to_pylist()[0].values()  # fmt: skip
    counts = {kind: dict.fromkeys(JOIN_STATES, 0) for kind in EVENT_KINDS if kind != "impression"}
    for row in con.to_pyarrow(found.group_by("kind", "state").agg(n=found.count())).to_pylist():
        counts[row["kind"]][row["state"]] = row["n"]
    impressions = {
        "joined": there - guests - strays, "repeated": logged - there, "guest": guests, "no_checkout": strays
    }  # fmt: skip
    return {"impression": {k: int(n) for k, n in impressions.items()}, **counts}
