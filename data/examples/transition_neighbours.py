"""Transition neighbours: items that users bought soon after an item.

    w_ij  = Σ over users and pairs of their orders a and b, at most MAX_STEPS apart, i in a and j in b:
            1 / max(1, steps between a and b), times BACKWARD_WEIGHT where b is the earlier one
    score = w_ij / √(n_j + SHRINKAGE), divided by the mean score of all pairs

n_j is the number of orders with j. Of an item with few orders a pair counts from its first occurrence on, so
that shops of many items and few orders have neighbours, too; where an item has RICH_ORDERS, a pair needs
MIN_WEIGHT, and in proportion between. Steps are orders, not days: they mean the same to users who buy daily
and yearly.
"""

from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from data.examples.item_pairs import best_neighbours, neighbours_in_parts, pair_lines
from data.io import engine
from data.tables.encoded_tables import EncodedTables

MAX_STEPS = 5  # from an order to a later one
MAX_LINES_BETWEEN = 10  # lines of the orders between the two of a pair: large orders have enough pairs
BACKWARD_WEIGHT = 0.5  # of an item that was bought before
UNIT = 1 / 120  # weights are whole numbers of it: sums of fractions depend on the order of their terms
SHRINKAGE = 3.0  # orders
MIN_WEIGHT = 2.0  # of a pair
RICH_ORDERS = 50  # of an item
ROUNDING = 1e-9  # of sums of weights


def order_pairs(lines: ir.Table) -> ir.Table:
    """`order, neighbour_order, units`: pairs of orders of a user, an order with itself among them.

    `units` is the weight in UNIT.
    """
    orders = lines.group_by("user", "order").agg(n_lines=ibis._.count())
    by_time = ibis.window(
        group_by="user", order_by="order", preceding=(None, 0)
    )  # orders are numbered by time
    orders = orders.mutate(
        step=ibis.row_number().over(group_by="user", order_by="order"),
        n_lines_until=orders.n_lines.sum().over(by_time),
    )
    pairs = []
    for steps in range(MAX_STEPS + 1):
        later = orders.select(
            "user",
            later_order="order",
            step=orders.step - steps,
            n_lines_before=orders.n_lines_until - orders.n_lines,
        )
        t = orders.join(later, ["user", "step"])
        if steps > 1:
            t = t.filter(t.n_lines_before - t.n_lines_until < MAX_LINES_BETWEEN)
        weight = 1.0 / max(1, steps)
        units = ibis.literal(round(weight / UNIT), "int64")
        pairs.append(t.select("order", neighbour_order="later_order", units=units))
        if steps > 0:
            units = ibis.literal(round(weight * BACKWARD_WEIGHT / UNIT), "int64")
            pairs.append(t.select(order="later_order", neighbour_order="order", units=units))
    return ibis.union(*pairs)


def transition_weights(lines: ir.Table, pairs: ir.Table, part: int = 0, parts: int = 1) -> ir.Table:
    """`item, neighbour, date_index, units`: the summed weights of pairs that became known at each date.

    `lines` are the `pair_lines`, `pairs` the `order_pairs`. Only items of `part` of `parts` are
    counted: the pairs of items must fit into memory.
    """
    left = lines.filter(lines["item"] % parts == part).select("order", "item", "date_index")
    right = lines.select(neighbour_order="order", neighbour="item", neighbour_date_index="date_index")
    t = left.join(pairs, "order").join(right, "neighbour_order")
    t = t.filter(t["item"] != t.neighbour)
    t = t.mutate(date_index=ibis.greatest(t.date_index, t.neighbour_date_index))
    return t.group_by("item", "neighbour", "date_index").agg(units=ibis._.units.sum())


def required_weight(n_orders: ir.Value) -> ir.Value:
    """The weight that a pair needs, by the orders with its item."""
    return ibis.least(MIN_WEIGHT, n_orders * (MIN_WEIGHT / RICH_ORDERS)) - ROUNDING


def filter_min_weight(weights: ir.Table, sales: ir.Table) -> ir.Table:
    """The `transition_weights` of pairs with the required weight at some date: a small part of a rich log.

    Both sides grow, so a pair needs at the last date what its item required at the first.
    """
    totals = weights.group_by("item", "neighbour").agg(weight=ibis._.units.sum() * UNIT)
    first = sales.filter(sales.date_index == 0).select("item", n_orders="n_orders")
    totals = totals.left_join(first, "item", rname="{name}_first")
    kept = totals.filter(totals.weight >= required_weight(totals.n_orders.fill_null(0)))
    return weights.semi_join(kept, ["item", "neighbour"])


def transition_neighbours(weights: ir.Table, sales: ir.Table, date_index: int, top: int) -> ir.Table:
    """`item, neighbour, score` at a date: the `top` neighbours of every item, best first.

    `weights` are the `transition_weights`, `sales` has `item, date_index, n_orders`. Scores are not yet
    divided by their mean.
    """
    pairs = weights.filter(weights.date_index <= date_index)
    pairs = pairs.group_by("item", "neighbour").agg(weight=ibis._.units.sum() * UNIT)
    n_orders = sales.filter(sales.date_index <= date_index)
    n_orders = n_orders.group_by("item").agg(n_orders=ibis._.n_orders.sum())
    scored = pairs.join(n_orders.select("item", n_item="n_orders"), "item")
    scored = scored.filter(scored.weight >= required_weight(scored.n_item))
    scored = scored.join(n_orders.select(neighbour="item", n_orders="n_orders"), "neighbour")
    scored = scored.select(
        "item", "neighbour", score=scored.weight / (scored.n_orders + SHRINKAGE).cast("float64").sqrt()
    )
    return best_neighbours(scored, top)


def transition_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> list[pa.Table]:
    """`item, neighbour, score` at each of `dates` (Unix seconds, rising), by item and best first.

    An item keeps the best `transition_neighbours` of `cfg`, which is `data.snapshots`. The mean score of a
    date is 1, so that scores do not grow with the log.
    """
    top = int(cfg["transition_neighbours"])
    lines = engine.materialize(con, "transition_lines", pair_lines(encoded, dates))
    sales = lines.group_by("item", "date_index").agg(n_orders=ibis._.count())
    sales = engine.materialize(con, "transition_sales", sales)
    pairs = engine.materialize(con, "order_pairs", order_pairs(lines))

    def count_pairs(part: int, parts: int) -> ir.Table:
        weights = engine.materialize(con, "transition_weights", transition_weights(lines, pairs, part, parts))
        return engine.materialize(con, "kept_transitions", filter_min_weight(weights, sales))

    def neighbours_at(weights: ir.Table, date_index: int) -> ir.Table:
        return transition_neighbours(weights, sales, date_index, top)

    tables = neighbours_in_parts(con, lines, len(dates), count_pairs, neighbours_at)
    engine.drop_tables(con, "transition_lines", "transition_sales", "order_pairs")
    engine.drop_tables(con, "transition_weights", "kept_transitions")
    return list(map(_with_mean_one, tables))


def _with_mean_one(table: pa.Table) -> pa.Table:
    """The table with `score` divided by its mean, as float32."""
    score = table["score"].to_numpy()
    mean = score.mean() if len(score) else 1.0
    return table.set_column(2, "score", pa.array((score / mean).astype(np.float32)))
