"""Transition neighbours: items that users bought soon after an item.

    w_ij  = Σ over users and pairs of their orders a and b, at most MAX_STEPS apart, i in a and j in b:
            1 / max(1, steps between a and b), times BACKWARD_WEIGHT where b is the earlier one
    score = w_ij / √(n_j + SHRINKAGE), divided by the mean score of all pairs

n_j is the number of orders with j. An item with RICH_ORDERS orders or more needs pairs of MIN_WEIGHT. An item
with few orders accepts a pair that occurred once, so that items of small shops have neighbours too. Between
these the required weight grows in proportion to the orders. Steps count orders, not days, so that they mean
the same for users who buy daily and yearly.
"""

from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from data.examples.item_pairs import (
    Floats,
    Ints,
    OrderLines,
    PairRule,
    Pairs,
    neighbours_by_date,
    read_order_lines,
)
from data.tables.encoded_tables import EncodedTables

MAX_STEPS = 5  # from an order to a later one
MAX_LINES_BETWEEN = 10  # lines of the orders between the two of a pair: large orders have enough pairs
BACKWARD_WEIGHT = 0.5  # of an item that was bought before
UNIT = 1 / 120  # weights are whole numbers of it: sums of fractions depend on the order of their terms
SHRINKAGE = 3.0  # orders
MIN_WEIGHT = 2.0  # of a pair
RICH_ORDERS = 50  # of an item
ROUNDING = 1e-6  # of required weights


def transition_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> list[pa.Table]:
    """`item, neighbour, score` at each of `dates` (Unix seconds, rising), by item and best first.

    An item keeps the best `transition_neighbours` of `cfg`, which is `data.snapshots`. The mean score of a
    date is 1, so that scores do not grow with the log.
    """
    lines = read_order_lines(con, encoded, dates)
    rule, top = PairRule(_required_weight, _score), int(cfg["transition_neighbours"])
    tables = neighbours_by_date(lines, _order_weights(lines), len(dates), rule, top)
    return list(map(_with_mean_one, tables))


def _order_weights(lines: OrderLines) -> sp.csr_array:
    """Weights [O, O], in UNIT, of pairs of orders of a user; an order also pairs with itself."""
    user, n_orders = lines.user, len(lines.user)
    n_lines = np.bincount(lines.order, minlength=n_orders)
    n_lines_before = np.cumsum(n_lines) - n_lines  # of all orders before; they are by user and time
    weights = sp.eye_array(n_orders, dtype=np.int64, format="csr") * round(1 / UNIT)
    for steps in range(1, MAX_STEPS + 1):
        order = np.flatnonzero(user[:-steps] == user[steps:])
        later = order + steps
        n_lines_between = n_lines_before[later] - n_lines_before[order] - n_lines[order]
        near = (n_lines_between < MAX_LINES_BETWEEN) | (steps == 1)
        pair, shape = (order[near], later[near]), (n_orders, n_orders)
        forward = sp.csr_array((np.ones(len(pair[0]), np.int64), pair), shape=shape)
        weights = weights + forward * round(1 / steps / UNIT)
        weights = weights + forward.T * round(BACKWARD_WEIGHT / steps / UNIT)
    return weights.tocsr()


def _required_weight(n_orders: Ints) -> Floats:
    """The weight that a pair needs in UNIT, by the orders with its item."""
    required: Floats = np.minimum(MIN_WEIGHT, n_orders * (MIN_WEIGHT / RICH_ORDERS)) / UNIT - ROUNDING
    return required


def _score(pairs: Pairs, n_orders: Ints) -> Floats:
    score: Floats = pairs.weight * UNIT / np.sqrt(n_orders[pairs.neighbour] + SHRINKAGE)
    return score


def _with_mean_one(table: pa.Table) -> pa.Table:
    """The table with `score` divided by its mean, as float32."""
    score = table["score"].to_numpy()
    mean = score.mean() if len(score) else 1.0
    return table.set_column(2, "score", pa.array((score / mean).astype(np.float32)))
