"""Joins the feedback of an impression log with impressions, and both with checkouts.

    click of (request, item)   ─▶ the impression of that item in that slate            ╮ within its window:
    click of (user, item)      ─▶ the latest impression of that item to that user      ├─▶ an event with the
    impression without order   ─▶ the latest checkout of its user at or before it      ╯   checkout's order_id
    ghost                      ─▶ its checkout, as an impression's; no feedback joins it

Any table of events with a column `request_id` is an impression log; `serving.ImpressionLog` writes one.
docs/reference/impression_log.md describes the rules. Every row that the rules exclude is counted.
`data/examples/outcomes.py` derives outcomes from the result.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

import ibis
import ibis.expr.types as ir

from data.errors import DataError
from data.io import engine
from data.tables.contract import EVENT_KINDS, SLATE_KINDS
from serving.checkout import MAX_CLOCK_SKEW
from serving.pipeline.exclusion import parse_duration

VIEWED_KIND = "viewed"  # kind of events: the slate was on screen
NO_CHECKOUT = "none"  # order_id of events without a checkout, which are history of the user but no outcome
JOIN_STATES = ("joined", "repeated", "unknown", "early", "late")
UNBOUNDED_WINDOW = 2**40  # seconds
NO_WINDOWS: Mapping[str, int] = MappingProxyType({})


def window_seconds(window: str, setting: str = "data.click_window") -> int:
    """The seconds of a window such as "1d", "12h" or "30m". Raises DataError for anything else."""
    seconds = parse_duration(str(window))
    if seconds is None:
        raise DataError(f"{setting} is '{window}', expected a number of days, hours or minutes: 1d")
    return seconds


def attribute_feedback(
    con: ibis.BaseBackend,
    log: ir.Table,
    orders: ir.Table,
    click_window: int,
    purchase_window: int | None,
    further_windows: Mapping[str, int] = NO_WINDOWS,
) -> tuple[ir.Table, dict[str, dict[str, int]]]:
    """Join users, checkouts and times to the conformed table `events`. Count rows by kind and join state.

    Rows without an item, a time, a valid kind or an owner stay unchanged, for `data/tables/checks.py` to
    reject.

    Args:
        log: the conformed table `events`, with `request_id`.
        orders: the conformed table `orders`, which may have bad rows and returns.
        click_window: seconds after the impression in which clicks and carts count.
        purchase_window: seconds after the impression in which purchases count; None if the horizon is the
            next order.
        further_windows: seconds after the impression for the kinds that labels of tasks name.
    """
    kinds = list(dict.fromkeys([*EVENT_KINDS, *further_windows]))
    is_event = _is_event(log, kinds)
    ids = {c: log[c].nullif("") for c in ("user_id", "order_id", "request_id")}
    events = engine.materialize(con, "valid_events", log.filter(is_event).mutate(**ids))
    checkouts = engine.materialize(con, "log_checkouts", _checkouts(orders))
    slots = engine.materialize(con, "log_slots", _join_slots(events, checkouts))
    impressions = slots.filter(slots.kind == "impression")
    feedback = engine.materialize(
        con,
        "log_feedback",
        _join_feedback(
            events,
            impressions,
            dict.fromkeys(kinds, click_window)
            | {"purchase": UNBOUNDED_WINDOW if purchase_window is None else purchase_window}
            | dict(further_windows),
        ),
    )
    counts = _count_join_states(con, events, slots, feedback, kinds)
    types = dict(log.schema().items())
    parts = [*_attributed_events(slots, feedback), log.filter(~is_event)]
    attributed, *more_parts = [part.select(*types).cast(types) for part in parts]
    for part in more_parts:
        attributed = attributed.union(part)
    return engine.materialize(con, "log_events", attributed), counts


def keep_viewed_slates(log: ir.Table) -> ir.Table:
    """Drop the impressions of slates that were not on screen from the conformed table `events` of a log.

    A slate was on screen if any of its items has an event VIEWED_KIND.
    """
    viewed = log.filter(log.kind == VIEWED_KIND, log.request_id.notnull())
    requests = viewed.select("request_id").distinct()
    return log.filter(
        (log.kind != "impression").fill_null(True) | log.request_id.isin(requests.request_id).fill_null(False)
    )


def _is_event(log: ir.Table, kinds: Collection[str]) -> ir.BooleanValue:
    """True for valid events. False, never null, for rows that the checks will reject."""
    is_event = (
        (log.item_id.fill_null("") != "")
        & log.ts.notnull()
        & log.kind.isin(list(kinds)).fill_null(False)
    )  # fmt: skip
    has_owner = (log.user_id.fill_null("") != "") | (log.request_id.fill_null("") != "")
    for c in log.columns:
        if c.startswith("_raw_"):
            is_event &= log[c].isnull()
    return is_event & (has_owner | log.kind.isin(list(SLATE_KINDS)).fill_null(False))


def _checkouts(orders: ir.Table) -> ir.Table:
    """Returns `number` (by time), `checkout` (order_id), `buyer` (user_id) and `checkout_ts` of every order.

    The rules are those of `data/tables/encoded_tables.py`.
    """
    t = orders.filter(orders.order_id.notnull(), orders.user_id.notnull(), orders.quantity > 0)
    t = t.filter(t.ts.notnull())
    t = t.group_by(checkout="order_id").agg(buyer=t.user_id.max(), checkout_ts=t.ts.max())
    by_time = ibis.row_number().over(order_by=[t.checkout_ts, t.checkout])
    return t.mutate(number=by_time.cast("int64"))


def _join_slots(events: ir.Table, checkouts: ir.Table) -> ir.Table:
    """The first impression and the first ghost of every request and item, with its checkout and user.

    Adds `slot` (number by time), `request`, `buyer` (the user; for a guest, the user of the order),
    `checkout`, `has_checkout` (whether `orders` has this checkout of this user) and `event_ts`. `event_ts` is
    not before the checkout's time, because an earlier outcome would be part of the history.
    """
    t = events.filter(events.kind.isin(list(SLATE_KINDS)))
    t = t.mutate(request=ibis.coalesce(t.request_id, ibis.literal("row ") + t["_row"].cast("string")))
    copies = ibis.window(group_by=["kind", "request", "item_id"], order_by=["ts", "position", "_row"])
    t = t.mutate(copy=ibis.row_number().over(copies)).filter(ibis._.copy == 0).drop("copy")
    marks = checkouts.select(at="checkout_ts", number="number", user_id="buyer")
    by_user = _asof_join(marks, t.filter(t.order_id.isnull(), t.user_id.notnull()), ["user_id"])
    by_order = t.join(checkouts.select("number", order_id="checkout"), "order_id").select("_row", "number")
    t = t.left_join(by_order.union(by_user), "_row").drop("_row_right")
    t = t.left_join(checkouts, "number").drop("number", "number_right")
    user = ibis.coalesce(t.user_id, t.buyer)
    return t.mutate(
        slot=ibis.row_number().over(order_by=[t.ts, t["_row"]]).cast("int64"),
        has_checkout=(t.buyer == user).fill_null(False),
        buyer=user,
        checkout=ibis.coalesce(t.order_id, t.checkout, ibis.literal(NO_CHECKOUT)),
        event_ts=ibis.greatest(t.ts, t.checkout_ts.fill_null(t.ts)),
    ).drop("checkout_ts")


def _join_feedback(events: ir.Table, impressions: ir.Table, windows: Mapping[str, int]) -> ir.Table:
    """Joins feedback with its impression, and adds a `state` of JOIN_STATES. `windows` are by kind."""
    t = events.filter(events.kind.notin(list(SLATE_KINDS)))
    by_request = t.filter(t.request_id.notnull()).join(
        impressions.select("item_id", "slot", request_id="request"), ["request_id", "item_id"]
    )
    marks = impressions.filter(impressions.buyer.notnull()).select(
        "item_id", at="ts", number="slot", user_id="buyer"
    )
    by_user = _asof_join(marks, t.filter(t.request_id.isnull()), ["user_id", "item_id"])
    matches = by_request.select("_row", "slot").union(by_user.select("_row", slot="number"))
    t = t.left_join(matches, "_row").drop("_row_right")
    columns = impressions.select(
        "slot", "buyer", "checkout", "event_ts", "request", impression_ts="ts"
    )  # fmt: skip
    t = t.left_join(columns, "slot").drop("slot_right")
    window = ibis.cases(*[(t.kind == kind, seconds) for kind, seconds in windows.items()])
    state = ibis.cases(
        (t.slot.isnull(), "unknown"),
        (t.ts < t.impression_ts - MAX_CLOCK_SKEW, "early"),
        (t.ts > t.impression_ts + window, "late"),
        else_="joined",
    )
    t = t.mutate(state=state)
    # Only the first of a kind counts, because feedback may be sent twice.
    number = ibis.row_number().over(group_by=["slot", "kind", "state"], order_by=["ts", "_row"])
    is_repeated = (t.state == "joined") & (number > 0)
    return t.mutate(state=ibis.ifelse(is_repeated, "repeated", t.state))


def _attributed_events(slots: ir.Table, feedback: ir.Table) -> list[ir.Table]:
    """Impressions, ghosts, joined feedback and other feedback. Other feedback is history but no outcome."""
    of_users = slots.filter(slots.buyer.notnull())
    joined = feedback.filter(feedback.state == "joined", feedback.buyer.notnull())
    unattributed = feedback.filter(
        feedback.state.isin(["unknown", "early", "late"]), feedback.kind != "purchase"
    )
    user = ibis.coalesce(unattributed.user_id, unattributed.buyer)
    unattributed = unattributed.mutate(user_id=user).filter(ibis._.user_id.notnull())
    # The checks would reject a second row with the same content.
    copies = ibis.window(group_by=["user_id", "item_id", "ts", "kind"], order_by="_row")
    unattributed = unattributed.mutate(copy=ibis.row_number().over(copies)).filter(ibis._.copy == 0)
    return [
        of_users.mutate(user_id=of_users.buyer, order_id=of_users.checkout, ts=of_users.event_ts),
        joined.mutate(
            user_id=joined.buyer,
            order_id=joined.checkout,
            ts=ibis.greatest(joined.ts, joined.event_ts),
            request_id=joined.request,
        ),
        unattributed.mutate(order_id=ibis.literal(NO_CHECKOUT)),
    ]


def _asof_join(marks: ir.Table, events: ir.Table, keys: list[str]) -> ir.Table:
    """Joins each event with the latest mark of the same keys at or before it: `_row` and the mark's `number`.

    Numbers rise with time, so the running maximum is the latest mark so far. `number` is null before the
    first mark.
    """
    types = {"at": "int64", "rank": "int8", "number": "int64", "row": "int64"}
    null = ibis.null("int64")
    mark_rows = marks.select(*keys, at="at", rank=ibis.literal(0), number="number", row=null)
    event_rows = events.select(*keys, at="ts", rank=ibis.literal(1), number=null, row="_row")
    t = mark_rows.cast(types).union(event_rows.cast(types))
    so_far = ibis.window(group_by=keys, order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(number=t.number.max().over(so_far))
    return t.filter(t["rank"] == 1).select("number", _row="row").select("_row", "number")


def _count_join_states(
    con: ibis.BaseBackend,
    events: ir.Table,
    slots: ir.Table,
    feedback: ir.Table,
    kinds: Collection[str],
) -> dict[str, dict[str, int]]:
    """Counts the rows of each kind by join state.

    Items of slates without an example are `guest` or `no_checkout`.
    """
    counts = {kind: _count_slots(con, events, slots, kind) for kind in SLATE_KINDS}
    counts |= {kind: dict.fromkeys(JOIN_STATES, 0) for kind in kinds if kind not in SLATE_KINDS}
    by_state = feedback.group_by("kind", "state").agg(n=feedback.count())
    for row in con.to_pyarrow(by_state).to_pylist():
        counts[row["kind"]][row["state"]] = row["n"]
    return counts


def _count_slots(con: ibis.BaseBackend, events: ir.Table, slots: ir.Table, kind: str) -> dict[str, int]:
    """Counts the rows of `kind` (impression or ghost) by join state."""
    n_logged = int(con.execute((events.kind == kind).sum().fill_null(0)))
    t = slots.filter(slots.kind == kind)
    totals = con.to_pyarrow(
        t.agg(
            distinct=t.count(),
            guest=t.buyer.isnull().sum().fill_null(0),
            no_checkout=(t.buyer.notnull() & ~t.has_checkout).sum().fill_null(0),
        )
    ).to_pylist()[0]
    n_distinct, n_guest, n_no_checkout = (int(totals[c]) for c in ("distinct", "guest", "no_checkout"))
    return {
        "joined": n_distinct - n_guest - n_no_checkout,
        "repeated": n_logged - n_distinct,
        "guest": n_guest,
        "no_checkout": n_no_checkout,
    }
