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

from data.examples import snapshots
from data.io import engine

ORDERS, USERS, ITEMS, TOP = 60, 7, 90, 5


def random_log(con: ibis.BaseBackend, seed: int) -> tuple[Any, list[tuple[int, int, int]]]:
    """A log of lines alone, many orders with more than form pairs; and the lines as (order, user, item)."""
    rng = np.random.default_rng(seed)
    lines = [
        (order, int(rng.integers(USERS)), int(item))
        for order in range(ORDERS)
        for item in rng.choice(ITEMS, rng.integers(1, 70), replace=False)
    ]
    owner = {order: user for order, user, _ in lines}  # one user per order
    lines = [(order, owner[order], item) for order, _, item in lines]
    columns = dict(zip(("order", "user", "item"), map(list, zip(*lines, strict=True)), strict=True))
    table = ibis.memtable(pa.table(columns | {"available": [order * 10 for order, _, _ in lines]}))
    return SimpleNamespace(lines=engine.materialize(con, "lines", table)), lines


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", [1, 4])
def test_neighbours_are_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, parts: int
) -> None:
    dates = [200, 450, 600]  # of orders 0 to 19, 0 to 44, and all
    with engine.connect({"threads": 2}, tmp_path) as con:
        log, lines = random_log(con, seed)
        monkeypatch.setattr(snapshots, "LINES_PER_PART", -(-len(lines) // parts))
        found = snapshots.copurchase_neighbours_by_date(con, log, dates, TOP)
    for date, table in zip(dates, found, strict=True):
        expected = plain_count(lines, date)
        assert table["item"].to_pylist() == [i for i, _, _ in expected]
        assert table["neighbour"].to_pylist() == [j for _, j, _ in expected]
        np.testing.assert_allclose(table["score"], [score for _, _, score in expected], rtol=1e-6)


def plain_count(lines: list[tuple[int, int, int]], date: int) -> list[tuple[int, int, float]]:
    """(item, neighbour, score) at a date, by loops."""
    baskets, owner = defaultdict(list), {}
    for order, user, item in lines:
        if order * 10 < date:
            baskets[order].append(item)
            owner[order] = user
    baskets = {order: set(sorted(items)[: snapshots.MAX_BASKET_LINES]) for order, items in baskets.items()}
    single = Counter(item for items in baskets.values() for item in items)
    both: Counter[tuple[int, int]] = Counter()
    for order, items in baskets.items():
        later = [other for other in baskets if other > order and owner[other] == owner[order]]
        for i in items:
            both.update((i, j) for j in items if j != i)
            both.update((i, j) for j in (baskets[min(later)] if later else ()) if j != i)
    expected = []
    for i in sorted(single):
        scores = [
            (-n / math.sqrt(single[i] * single[j]), j) for (a, j), n in both.items() if a == i and n >= 2
        ]
        expected += [(i, j, -score) for score, j in sorted(scores)[:TOP]]
    return expected
