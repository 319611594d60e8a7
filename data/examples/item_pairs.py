"""Shared code of the neighbour tables: order lines, counts of item pairs, and the best neighbours of an item.

    weights of pairs of items = X' W X

X [O, N] holds the items of orders, W [O, O] the weights of pairs of orders. A sparse product adds up the
pairs of an item directly. A join would first materialize every pair.
"""

from collections.abc import Callable
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray

from data.tables.encoded_tables import EncodedTables

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
LINES_PER_PART = 1_000_000  # lines whose pairs are counted at once, in some GB of memory
MAX_BASKET_LINES = 40  # most lines of an order that form pairs, because the number of pairs is their square


class OrderLines(NamedTuple):
    """The n lines that form pairs, of O orders that are numbered by user and time."""

    order: Ints  # [n]
    item: Ints  # [n]
    date_index: Ints  # [n] position of the first date at which the line is known
    user: Ints  # [O]


class Pairs(NamedTuple):
    """Pairs of items and their weight."""

    item: Ints  # [p] rising
    neighbour: Ints  # [p]
    weight: Ints  # [p]


class PairRule(NamedTuple):
    """The least weight and the score of pairs, as functions of the number of orders [N] with each item."""

    required_weight: Callable[[Ints], Floats]  # [N] of the pairs of an item
    score: Callable[[Pairs, Ints], Floats]  # [p]


def pair_lines(encoded: EncodedTables, dates: list[int]) -> ir.Table:
    """The lines that form pairs: `order, user, item, date_index`.

    `date_index` is the position of the first of `dates` (Unix seconds, rising) at which a line is known.
    Lines that become known after the last date are left out.
    """
    t = encoded.lines.select("order", "user", "item", "available_at")
    t = t.mutate(rank=ibis.row_number().over(group_by="order", order_by="item"))
    t = t.filter(t["rank"] < MAX_BASKET_LINES, t.available_at < dates[-1])
    n_dates_before = sum((t.available_at >= date).cast("int32") for date in dates[:-1])
    return t.select("order", "user", "item", date_index=ibis.literal(0, "int32") + n_dates_before)


def read_order_lines(con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int]) -> OrderLines:
    """Reads the `pair_lines` into memory."""
    table = con.to_pyarrow(pair_lines(encoded, dates))
    order, user, item, date_index = (table[name].to_numpy().astype(np.int64) for name in table.schema.names)
    by_time, row = np.unique(order, return_inverse=True)  # orders are numbered by time
    user_of = np.zeros(len(by_time), np.int64)
    user_of[row] = user
    by_user = np.argsort(user_of, kind="stable")
    number = np.empty_like(by_user)
    number[by_user] = np.arange(len(by_user))
    return OrderLines(number[row], item, date_index, user_of[by_user])


def neighbours_by_date(
    lines: OrderLines, order_weights: sp.csr_array, n_dates: int, rule: PairRule, top: int
) -> list[pa.Table]:
    """The `top` best neighbours of every item at each date: `item, neighbour, score`, best first.

    Args:
        order_weights: [O, O] int64, the weight of a pair with one line of the row's order and one line of the
            column's order.
    """
    tables = []
    for date in range(n_dates):
        is_known = lines.date_index <= date
        known = lines._replace(order=lines.order[is_known], item=lines.item[is_known])
        n_orders = np.bincount(known.item)
        parts = -(-len(known.item) // LINES_PER_PART) or 1
        of_date = []
        for part in range(parts):
            pairs = _count_pairs(known, order_weights, rule.required_weight(n_orders), part, parts)
            of_date.append(_best_neighbours(pairs, rule.score(pairs, n_orders), top))
        # Each part is sorted, best first. A stable sort by item keeps this order.
        tables.append(pa.concat_tables(of_date).sort_by("item"))
    return tables


def _count_pairs(
    lines: OrderLines, order_weights: sp.csr_array, required: Floats, part: int, parts: int
) -> Pairs:
    """Counts pairs of the items of one `part` with all items.

    Keeps the pairs with at least the weight that their item requires (`required` [N]).
    """
    shape = len(lines.user), len(required)
    ones, of_part = np.ones(len(lines.item), np.int64), lines.item % parts == part
    all_items = sp.csr_array((ones, (lines.order, lines.item)), shape=shape)
    by_item = lines.item[of_part], lines.order[of_part]
    orders_of_item = sp.csr_array((ones[of_part], by_item), shape=shape[::-1])
    weights = orders_of_item @ order_weights @ all_items  # [N, N]
    kept = np.flatnonzero(weights.data >= np.repeat(required, np.diff(weights.indptr)))
    item = np.searchsorted(weights.indptr, kept, side="right") - 1
    neighbour, weight = weights.indices[kept].astype(np.int64), weights.data[kept]
    is_other = item != neighbour
    return Pairs(item[is_other], neighbour[is_other], weight[is_other])


def _best_neighbours(pairs: Pairs, score: Floats, top: int) -> pa.Table:
    """The `top` pairs of highest score of every item, best first: `item, neighbour, score`."""
    starts = np.flatnonzero(np.diff(pairs.item, prepend=-1))
    stops = np.append(starts[1:], len(score))
    lowest = np.zeros(len(starts))  # of the `top` scores of an item
    for row in np.flatnonzero(stops - starts > top):
        scores = score[starts[row] : stops[row]]
        lowest[row] = np.partition(scores, len(scores) - top)[-top]
    kept = np.flatnonzero(score >= np.repeat(lowest, stops - starts))  # a small part: sorting takes long
    item, neighbour, score = pairs.item[kept], pairs.neighbour[kept], score[kept]
    order = np.lexsort((neighbour, -score, item))
    is_best = np.arange(len(item)) - np.searchsorted(item, item) < top  # items rise already
    order = order[is_best]
    return pa.table([item[order], neighbour[order], score[order]], names=["item", "neighbour", "score"])
