"""Transition neighbours against a plain count, in large baskets and in parts."""

import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from data.examples import item_pairs, transition_neighbours
from data.io import engine
from tests.data.examples.test_copurchase_neighbours import TOP, Line, random_lines


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("longest", [3, 70])
def test_neighbours_are_counted_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, parts: int, longest: int
) -> None:
    dates = [200, 450, 600]  # after orders 0 to 19, 0 to 44, and all
    with engine.connect({"threads": 2}, tmp_path) as con:
        encoded, lines = random_lines(con, seed, longest)
        monkeypatch.setattr(item_pairs, "LINES_PER_PART", -(-len(lines) // parts))
        tables = transition_neighbours.transition_neighbours_by_date(
            con, encoded, dates, {"transition_neighbours": TOP}
        )
    for date, table in zip(dates, tables, strict=True):
        expected = plain_count(lines, date)
        assert table["item"].to_pylist() == [i for i, _, _ in expected]
        np.testing.assert_allclose(table["score"], [score for _, _, score in expected], rtol=1e-5)
        pairs = set(zip(table["item"].to_pylist(), table["neighbour"].to_pylist(), strict=True))
        assert len(pairs) == len(expected)


def plain_count(lines: list[Line], date: int) -> list[tuple[int, int, float]]:
    """(item, neighbour, score) at a date, by loops."""
    items_of: dict[int, list[int]] = defaultdict(list)
    orders_of: dict[int, list[int]] = defaultdict(list)
    for order, user, item in lines:
        if order * 10 < date:
            items_of[order].append(item)
            if order not in orders_of[user]:
                orders_of[user].append(order)
    limit = item_pairs.MAX_BASKET_LINES
    baskets = {order: set(sorted(items)[:limit]) for order, items in items_of.items()}
    n_orders = Counter(item for items in baskets.values() for item in items)
    weights: dict[tuple[int, int], float] = defaultdict(float)
    for orders in orders_of.values():
        for first, order in enumerate(orders):
            for steps, later in enumerate(orders[first : first + transition_neighbours.MAX_STEPS + 1]):
                between = sum(len(baskets[k]) for k in orders[first + 1 : first + steps])
                if between < transition_neighbours.MAX_LINES_BETWEEN:
                    for i in baskets[order]:
                        for j in baskets[later] - {i}:
                            weights[i, j] += 1 / max(1, steps)
                            if steps:
                                weights[j, i] += transition_neighbours.BACKWARD_WEIGHT / steps
    expected = []
    for i in sorted(n_orders):
        scores = [
            (-w / math.sqrt(n_orders[j] + transition_neighbours.SHRINKAGE), j)
            for (item, j), w in weights.items()
            if item == i and w >= required_weight(n_orders[i])
        ]
        expected += [(i, j, -score) for score, j in sorted(scores)[:TOP]]
    mean = np.mean([score for _, _, score in expected])
    return [(i, j, score / mean) for i, j, score in expected]


def required_weight(n_orders: int) -> float:
    share = min(n_orders / transition_neighbours.RICH_ORDERS, 1)
    return share * transition_neighbours.MIN_WEIGHT - 1e-9


def test_one_order_after_another_is_a_pair(tmp_path: Path) -> None:
    """In a shop of single-item orders a single pair makes neighbours, backwards with half the score."""
    with engine.connect({"threads": 1}, tmp_path) as con:
        encoded, _ = random_lines(con, 0, lines=[(0, 1, 5), (1, 1, 7), (2, 1, 9)])
        (table,) = transition_neighbours.transition_neighbours_by_date(
            con, encoded, [100], {"transition_neighbours": 9}
        )
    assert table["item"].to_pylist() == [5, 5, 7, 7, 9, 9]
    assert table["neighbour"].to_pylist() == [7, 9, 9, 5, 7, 5]
    scores = table["score"].to_pylist()
    assert [score / scores[0] for score in scores] == pytest.approx([1, 1 / 2, 1, 1 / 2, 1 / 2, 1 / 4])
