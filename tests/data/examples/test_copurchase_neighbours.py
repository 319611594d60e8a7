"""Co-purchase neighbours against a plain count, in large baskets and in parts."""

import math
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pytest

from data.examples import copurchase_neighbours, item_pairs
from data.io import engine

ORDERS, USERS, ITEMS, TOP = 60, 7, 90, 5
Line = tuple[int, int, int]  # order, user, item


def random_lines(
    con: ibis.BaseBackend, seed: int, longest: int = 70, lines: list[Line] | None = None
) -> tuple[Any, list[Line]]:
    """Encoded tables with lines alone, random ones by default; and the same lines as a list.

    An order has less than `longest` lines: in many orders more than form pairs.
    """
    rng = np.random.default_rng(seed)
    lines = lines or [
        (order, int(rng.integers(USERS)), int(item))
        for order in range(ORDERS)
        for item in rng.choice(ITEMS, rng.integers(1, longest), replace=False)
    ]
    owner = {order: user for order, user, _ in lines}  # one user per order
    lines = [(order, owner[order], item) for order, _, item in lines]
    columns = dict(zip(("order", "user", "item"), map(list, zip(*lines, strict=True)), strict=True))
    table = ibis.memtable(pa.table(columns | {"available_at": [order * 10 for order, _, _ in lines]}))
    return SimpleNamespace(lines=engine.materialize(con, "lines", table)), lines


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", [1, 4])
def test_neighbours_are_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, parts: int
) -> None:
    dates = [200, 450, 600]  # after orders 0 to 19, 0 to 44, and all
    with engine.connect({"threads": 2}, tmp_path) as con:
        encoded, lines = random_lines(con, seed)
        monkeypatch.setattr(item_pairs, "LINES_PER_PART", -(-len(lines) // parts))
        tables = copurchase_neighbours.copurchase_neighbours_by_date(con, encoded, dates, {"neighbours": TOP})
    for date, table in zip(dates, tables, strict=True):
        expected = plain_count(lines, date)
        assert table["item"].to_pylist() == [i for i, _, _ in expected]
        assert table["neighbour"].to_pylist() == [j for _, j, _ in expected]
        np.testing.assert_allclose(table["score"], [score for _, _, score in expected], rtol=1e-6)


def plain_count(lines: list[Line], date: int) -> list[tuple[int, int, float]]:
    """(item, neighbour, score) at a date, by loops."""
    items_of, owner = defaultdict(list), {}
    for order, user, item in lines:
        if order * 10 < date:
            items_of[order].append(item)
            owner[order] = user
    limit = item_pairs.MAX_BASKET_LINES
    baskets = {order: set(sorted(items)[:limit]) for order, items in items_of.items()}
    n_orders = Counter(item for items in baskets.values() for item in items)
    n_copurchases: Counter[tuple[int, int]] = Counter()
    for order, items in baskets.items():
        later = [k for k in baskets if owner[k] == owner[order] and k > order]
        next_items = baskets[min(later)] if later else set()
        for i in items:
            n_copurchases.update((i, j) for j in items if j != i)
            n_copurchases.update((i, j) for j in next_items if j != i)
    expected = []
    for i in sorted(n_orders):
        scores = [
            (-n / math.sqrt(n_orders[i] * n_orders[j]), j)
            for (item, j), n in n_copurchases.items()
            if item == i and n >= 2
        ]
        expected += [(i, j, -score) for score, j in sorted(scores)[:TOP]]
    return expected
