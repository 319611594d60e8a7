"""Co-purchase neighbours: items of the same order, or of the user's next order.

    n_ij = orders with i and j + orders with i whose user's next order has j
    score = n_ij / √(n_i n_j), where n_ij ≥ 2

In a shop of single-item orders only the next order makes pairs.
"""

from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.examples.item_pairs import best_neighbours, neighbours_in_parts, pair_lines
from data.io import engine
from data.tables.encoded_tables import EncodedTables

MIN_COPURCHASES = 2


def copurchase_lines(encoded: EncodedTables, dates: list[int]) -> ir.Table:
    """`order, item, date_index, next_order`: the `pair_lines`, and the user's next order (-1: none)."""
    t = pair_lines(encoded, dates)
    orders = t.select("user", "order").distinct()  # orders are numbered by time
    next_order = orders.order.lead().over(group_by="user", order_by="order")
    orders = orders.mutate(next_order=next_order.fill_null(-1))
    return t.join(orders, ["user", "order"]).select("order", "item", "date_index", "next_order")


def copurchase_counts(lines: ir.Table, part: int = 0, parts: int = 1) -> ir.Table:
    """`item, neighbour, date_index, n_copurchases`: co-purchases that became known at each date.

    `lines` are the `copurchase_lines`. Only items of `part` of `parts` are counted: the pairs must fit into
    memory.
    """
    left = lines.filter(lines["item"] % parts == part)
    right = lines.select("order", neighbour="item", neighbour_date_index="date_index")
    same_order = left.join(right, [left.order == right.order, left["item"] != right.neighbour])
    next_order = left.join(right, [left.next_order == right.order, left["item"] != right.neighbour])
    columns = ["item", "neighbour", "date_index", "neighbour_date_index"]
    pairs = ibis.union(same_order.select(columns), next_order.select(columns))
    pairs = pairs.mutate(date_index=ibis.greatest(pairs.date_index, pairs.neighbour_date_index))
    return pairs.group_by("item", "neighbour", "date_index").agg(n_copurchases=ibis._.count())


def filter_min_support(counts: ir.Table) -> ir.Table:
    """The `copurchase_counts` of pairs with MIN_COPURCHASES or more by the last date: a small part."""
    totals = counts.group_by("item", "neighbour").agg(n_copurchases=ibis._.n_copurchases.sum())
    return counts.semi_join(totals.filter(totals.n_copurchases >= MIN_COPURCHASES), ["item", "neighbour"])


def copurchase_neighbours(counts: ir.Table, sales: ir.Table, date_index: int, top: int) -> ir.Table:
    """`item, neighbour, score` at a date: the `top` neighbours of every item, best first.

    `counts` are the `copurchase_counts`, `sales` has `item, date_index, n_orders`.
    """
    pairs = counts.filter(counts.date_index <= date_index)
    pairs = pairs.group_by("item", "neighbour").agg(n_copurchases=ibis._.n_copurchases.sum())
    pairs = pairs.filter(pairs.n_copurchases >= MIN_COPURCHASES)
    n_item = sales.filter(sales.date_index <= date_index)
    n_item = n_item.group_by("item").agg(n_orders=ibis._.n_orders.sum())
    n_neighbour = n_item.view()
    scored = pairs.join(n_item, pairs["item"] == n_item["item"])
    scored = scored.join(n_neighbour, pairs.neighbour == n_neighbour["item"])
    norm = (n_item.n_orders.cast("float64") * n_neighbour.n_orders).sqrt()
    scored = scored.select(
        item=pairs["item"], neighbour=pairs.neighbour, score=pairs.n_copurchases / norm
    )  # fmt: skip
    best = best_neighbours(scored, top)
    return best.mutate(score=best.score.cast("float32"))


def copurchase_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> list[pa.Table]:
    """`item, neighbour, score` at each of `dates` (Unix seconds, rising), by item and best first.

    An item keeps the best `neighbours` of `cfg`, which is `data.snapshots`.
    """
    top = int(cfg["neighbours"])
    lines = engine.materialize(con, "copurchase_lines", copurchase_lines(encoded, dates))
    sales = lines.group_by("item", "date_index").agg(n_orders=ibis._.count())
    sales = engine.materialize(con, "item_sales", sales)

    def count_pairs(part: int, parts: int) -> ir.Table:
        counts = engine.materialize(con, "copurchase_counts", copurchase_counts(lines, part, parts))
        return engine.materialize(con, "supported_counts", filter_min_support(counts))

    def neighbours_at(counts: ir.Table, date_index: int) -> ir.Table:
        return copurchase_neighbours(counts, sales, date_index, top)

    tables = neighbours_in_parts(con, lines, len(dates), count_pairs, neighbours_at)
    engine.drop_tables(con, "copurchase_lines", "item_sales", "copurchase_counts", "supported_counts")
    return tables
