"""Transition neighbours: items that users bought soon after an item.

    w_ij  = Σ over users and pairs of their orders a and b, at most MAX_STEPS apart, i in a and j in b:
            1 / max(1, steps between a and b), times BACKWARD_WEIGHT where b is the earlier one
    score = w_ij / √(n_j + SHRINKAGE), divided by the mean score of all pairs

n_j is the number of orders with j. An item with RICH_ORDERS orders or more needs pairs of MIN_WEIGHT. An item
with few orders accepts a pair that occurred once, so that items of small shops have neighbours too. Between
these the required weight grows in proportion to the orders. Steps count orders, not days, so that they are
comparable for users who buy daily and users who buy yearly.
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
MAX_LINES_BETWEEN = 10  # most lines of the orders between two orders: large orders have enough pairs
BACKWARD_WEIGHT = 0.5  # of an item that was bought before
UNIT = 1 / 120  # weights are integers in this unit, because sums of floats depend on the order of their terms
SHRINKAGE = 3.0  # orders
MIN_WEIGHT = 2.0  # of a pair
RICH_ORDERS = 50  # of an item
ROUNDING = 1e-6  # of required weights


def transition_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> list[pa.Table]:
    """Returns `item, neighbour, score` at each of `dates` (Unix seconds, rising), by item, best first.

    `cfg` is `data.snapshots`. An item keeps its best `cfg["transition_neighbours"]` neighbours. The mean
    score of a date is 1, so that scores do not grow with the log.
    """
    lines = read_order_lines(con, encoded, dates)
    rule, top = PairRule(_required_weight, _score), int(cfg["transition_neighbours"])
    tables = neighbours_by_date(lines, _order_weights(lines), len(dates), rule, top)
    return list(map(_with_mean_one, tables))


def _order_weights(lines: OrderLines) -> sp.csr_array:
    """Weights [O, O], in UNIT, of pairs of orders of a user. An order also forms a pair with itself."""
    user, n_orders = lines.user, len(lines.user)
    n_lines = np.bincount(lines.order, minlength=n_orders)
    n_lines_before = np.cumsum(n_lines) - n_lines  # of all orders before; orders are sorted by user and time
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
    """The least weight of a pair, in UNIT, by the number of orders with the pair's item."""
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
