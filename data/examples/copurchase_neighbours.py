"""Co-purchase neighbours: items of the same order, or of the user's next order.

    n_ij = orders with i and j + orders with i whose user's next order has j
    score = n_ij / √(n_i n_j), where n_ij ≥ 2

In a shop of single-item orders, all pairs come from the next order.
"""

from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from data.examples.item_pairs import Floats, Ints, PairRule, Pairs, neighbours_by_date, read_order_lines
from data.tables.encoded_tables import EncodedTables

MIN_COPURCHASES = 2


def copurchase_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> list[pa.Table]:
    """Returns `item, neighbour, score` at each of `dates` (Unix seconds, rising), by item, best first.

    `cfg` is `data.snapshots`. An item keeps its best `cfg["neighbours"]` neighbours.
    """
    lines = read_order_lines(con, encoded, dates)
    rule, top = PairRule(_required_weight, _score), int(cfg["neighbours"])
    return neighbours_by_date(lines, _same_and_next_order(lines.user), len(dates), rule, top)


def _same_and_next_order(user: Ints) -> sp.csr_array:
    """Weights [O, O] of pairs of orders: 1 for an order with itself and with the user's next order."""
    n_orders = len(user)
    order = np.flatnonzero(user[:-1] == user[1:])
    diagonal = np.arange(n_orders)
    rows, columns = np.append(diagonal, order), np.append(diagonal, order + 1)
    return sp.csr_array((np.ones(len(rows), np.int64), (rows, columns)), shape=(n_orders, n_orders))


def _required_weight(n_orders: Ints) -> Floats:
    return np.full(len(n_orders), float(MIN_COPURCHASES))


def _score(pairs: Pairs, n_orders: Ints) -> Floats:
    score: Floats = pairs.weight / np.sqrt(n_orders[pairs.item] * n_orders[pairs.neighbour].astype(float))
    return score
