"""Outcomes: purchases, clicks and impressions after a checkout, inside its horizon (ts, horizon_end].

impressions, clicks, purchase events ─ attribute_to_checkouts ─╮
order lines of the same user inside the horizon ───────────────┴─ outcome_lists ─▶ lists per checkout
"""

from collections.abc import Sequence
from typing import NamedTuple

import ibis
import ibis.expr.types as ir

from data.examples import labels as label_columns
from data.examples.exclusion import KEEP_ALL, Exclusion, excluded_items
from data.examples.labels import LabelSpec
from data.io import lists
from data.tables.contract import SLATE_KINDS
from data.tables.encoded_tables import EncodedTables

OUTCOME_TYPES = {
    "item": "int32", "impression": "boolean", "click": "boolean", "purchase": "boolean", "value": "float32",
    "position": "int32", "ghost": "boolean", "withhold": "float32",
}  # fmt: skip
EVENT_FIELDS = ("item", "kind", "value", "position", "withhold")


class OutcomeSpec(NamedTuple):
    """The settings that define outcomes."""

    labels: Sequence[LabelSpec] = ()  # labels besides those that every example has
    exclusion: Exclusion = KEEP_ALL  # items that the slate leaves out have no outcome


ALL_OUTCOMES = OutcomeSpec()


def outcome_types(labels: Sequence[LabelSpec]) -> dict[str, str]:
    """The columns `outcome_<name>` of the examples and the types of their values, further labels last."""
    return OUTCOME_TYPES | {spec.key: "float32" for spec in labels}


def attribute_to_checkouts(
    encoded: EncodedTables, checkouts: ir.Table, labels: Sequence[LabelSpec] = ()
) -> ir.Table:
    """Joins slates, clicks, purchase events and events of `labels` to the `order, item` of checkouts.

    A ghost is an item of a slate that was withheld, unless another slate of the checkout shows it.
    `withhold` is the probability with which the slate is withheld. Of several positions, the smallest
    counts. The i-th label has the column `event_<i>` (data/examples/labels.py).

    An event with an order_id belongs to that checkout if the event is in [ts, horizon_end]. An event without
    an order_id belongs to the user's latest checkout strictly before the event, if the event is in (ts,
    horizon_end]. Purchase events without an order_id are left out, because they repeat order lines.
    """
    kinds = [*SLATE_KINDS, "click", "purchase", *label_columns.label_event_kinds(labels)]
    e = encoded.events.filter(encoded.events.kind.isin(kinds))
    by_order = e.filter(e.order >= 0)
    by_order = by_order.join(
        checkouts.select("order", "horizon_end", checkout_ts="ts", buyer="user"), "order"
    )  # fmt: skip
    by_order = by_order.filter(
        by_order.ts >= by_order.checkout_ts,
        by_order.ts <= by_order.horizon_end,
        by_order.user == by_order.buyer,
    )
    by_user = _join_latest_checkout(e.filter(e.order == -1, e.kind != "purchase"), checkouts)
    by_user = by_user.filter(by_user.ts <= by_user.horizon_end)
    columns = ["order", *EVENT_FIELDS]
    by_order, by_user = (
        part.select(*columns, delay=part.ts - part.checkout_ts) for part in (by_order, by_user)
    )  # fmt: skip
    t = by_order.union(by_user)
    impression = t.kind == "impression"
    has_position = impression & (t.position > 0)
    return t.group_by("order", "item").agg(
        impression=impression.any(),
        ghost=(t.kind == "ghost").any() & ~impression.any(),
        withhold=ibis.ifelse(t.kind.isin(list(SLATE_KINDS)), t.withhold, 0.0).max(),
        click=(t.kind == "click").any(),
        implied_click=label_columns.implies_click(t.kind, labels).any(),
        purchase=(t.kind == "purchase").any(),
        purchase_delay=ibis.ifelse(t.kind == "purchase", t.delay, ibis.null("int64")).min(),
        value=ibis.ifelse(t.kind == "purchase", t.value, ibis.null("float64")).sum(),
        position=ibis.ifelse(has_position, t.position, ibis.null("int64")).min(),
        **label_columns.event_label_columns(t, labels),
    )


def _join_latest_checkout(events: ir.Table, checkouts: ir.Table) -> ir.Table:
    """Adds `order, checkout_ts, horizon_end` of the user's latest checkout strictly before each event."""
    null = ibis.null("int64")
    marks = checkouts.select(
        "user", at="ts", rank=ibis.literal(1), order="order", horizon_end="horizon_end"
    )  # fmt: skip
    marks = marks.mutate(**{c: ibis.null(events[c].type()) for c in EVENT_FIELDS}).cast({"order": "int64"})
    marks = marks.mutate(latest=marks.order)
    queries = events.select(
        "user", *EVENT_FIELDS, at="ts", rank=ibis.literal(0), order="order", horizon_end=null, latest=null
    )  # fmt: skip
    t = marks.union(queries.select(*marks.columns))
    # Order codes rise with time, so the running maximum is the latest checkout so far.
    window = ibis.window(group_by="user", order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(latest=t.latest.max().over(window))
    t = t.filter(t["rank"] == 0).select("latest", *EVENT_FIELDS, ts="at")
    latest = checkouts.select("order", "horizon_end", checkout_ts="ts")
    return t.join(latest, t.latest == latest.order)


def outcome_lists(
    encoded: EncodedTables,
    checkouts: ir.Table,
    events: ir.Table,
    bounds: tuple[int, int],
    spec: OutcomeSpec = ALL_OUTCOMES,
) -> ir.Table:
    """Returns the lists `outcome_*` and `purchase_delay` of each checkout with outcomes, by item.

    `purchase_delay` is the seconds from the checkout to the first purchase of the item, 0 without a purchase.

    `events` are of `attribute_to_checkouts`, with the same labels. `bounds` are the first ts and the last
    horizon_end. The value is the spend of the order lines, else that of the purchase events, else the item's
    list price. Items that `spec.exclusion` keeps off the slate have no outcome.
    """
    lines = encoded.lines.filter(encoded.lines.ts > bounds[0], encoded.lines.ts <= bounds[1])
    lines = lines.select("user", "item", "spend", "quantity", "returned_at", line_ts="ts")
    t = checkouts.join(lines, "user")
    t = t.filter(t.line_ts > t.ts, t.line_ts <= t.horizon_end)
    t = t.mutate(delay=t.line_ts - t.ts, return_delay=t.returned_at - t.ts, horizon=t.horizon_end - t.ts)
    further = label_columns.line_label_columns(t, spec.labels, encoded.impressions_logged)
    purchases = t.group_by("order", "item").agg(spend=t.spend.sum(), purchase_delay=t.delay.min(), **further)
    events = events.semi_join(checkouts, "order")
    excluded = excluded_items(encoded, checkouts, spec.exclusion)
    if excluded is not None:
        purchases, events = (part.anti_join(excluded, ["order", "item"]) for part in (purchases, events))
    return _merge_outcomes(encoded, purchases, events, spec.labels)


def _merge_outcomes(
    encoded: EncodedTables, purchases: ir.Table, events: ir.Table, labels: Sequence[LabelSpec]
) -> ir.Table:
    """Merges purchases by order line with attributed events, by `order, item`, into `outcome_lists`."""
    no, null = ibis.literal(False), ibis.null("float64")
    line_labels, event_labels = ([f"{side}_{i}" for i in range(len(labels))] for side in ("line", "event"))
    of_lines = purchases.select(
        "order", "item", "spend", "purchase_delay", *line_labels,
        event_value=null,
        impression=no,
        click=no,
        implied_click=no,
        event_purchase=no,
        position=ibis.null("int64"),
        ghost=no,
        withhold=null,
        **dict.fromkeys(event_labels, null),
    )  # fmt: skip
    of_events = events.select(
        "order", "item", "impression", "click", "implied_click", "position", "ghost", "withhold",
        "purchase_delay", *event_labels, spend=null, event_value="value", event_purchase="purchase",
        **dict.fromkeys(line_labels, null),
    )  # fmt: skip
    t = of_lines.union(of_events.select(*of_lines.columns)).group_by("order", "item")
    t = t.agg(
        spend=ibis._.spend.max(),
        event_value=ibis._.event_value.max(),
        impression=ibis._.impression.any(),
        click=ibis._.click.any(),
        implied_click=ibis._.implied_click.any(),
        event_purchase=ibis._.event_purchase.any(),
        position=ibis._.position.max().fill_null(0),
        purchase_delay=ibis._.purchase_delay.min().fill_null(0).cast("int32"),
        ghost=ibis._.ghost.any(),
        withhold=ibis._.withhold.max().fill_null(0.0),
        **{name: ibis._[name].max() for name in (*line_labels, *event_labels)},
    )
    t = t.left_join(encoded.items.select("item", "price"), "item").drop("item_right")
    purchase = t.spend.notnull() | t.event_purchase
    event_value = ibis.coalesce(t.event_value.nullif(0.0), t.price, 0.0)
    value = ibis.ifelse(purchase, ibis.coalesce(t.spend, event_value), 0.0)
    # If impressions are logged, a purchase by order line may not be due to the slate.
    implied_click = t.implied_click if encoded.impressions_logged else t.implied_click | purchase
    click = (t.click | implied_click) if encoded.clicks_logged else no
    further = label_columns.label_values(t, labels)
    t = t.mutate(purchase=purchase, value=value, click=click, **{f"label_{k}": v for k, v in further.items()})
    columns = {c: f"label_{c}" if c in further else c for c in outcome_types(labels)}
    t = t.mutate(**{columns[c]: t[columns[c]].cast(k) for c, k in outcome_types(labels).items()})
    list_columns = {f"outcome_{c}": name for c, name in columns.items()} | {
        "purchase_delay": "purchase_delay"
    }
    return lists.collect_lists(t, "order", list_columns, ["item"])
