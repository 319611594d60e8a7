"""EASE weights against their definition; test_writer.py plants future events that they must not read."""

from types import SimpleNamespace

import ibis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.examples import ease_neighbours
from data.examples.ease_neighbours import RIDGE, ease_weights


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_the_ridge_regression_of_each_item_on_the_others(seed: int) -> None:
    """Column j of EASE is the least-squares prediction of item j from all other items."""
    rng = np.random.default_rng(seed)
    purchases = rng.random((40, 9)) < 0.4
    purchases[:2] = True  # every item has two buyers
    user, item = np.nonzero(purchases)
    # Nobody buys the items of rows 0 and 10.
    row, neighbour, weight = ease_weights(user, item + 1, 11, max_items=20, n_neighbours=20)
    x = purchases.astype(float)
    gram = x.T @ x
    ridge = RIDGE * np.diag(gram).mean()
    expected = {}
    for j in range(9):
        predictors = [i for i in range(9) if i != j]
        regularized = gram[np.ix_(predictors, predictors)] + ridge * np.eye(8)
        slopes = np.linalg.solve(regularized, gram[predictors, j])
        expected |= {(i + 1, j + 1): slope for i, slope in zip(predictors, slopes, strict=True)}
    weights = dict(zip(zip(row.tolist(), neighbour.tolist(), strict=True), weight.tolist(), strict=True))
    assert set(weights) == {pair for pair, slope in expected.items() if slope > 0}
    for pair, value in weights.items():
        assert abs(value - expected[pair]) < 1e-4
    for i in np.unique(row):
        assert (np.diff(weight[row == i]) <= 0).all()


def test_only_the_most_bought_items_and_the_largest_weights_are_kept() -> None:
    user = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3])
    item = np.array([1, 2, 3, 1, 2, 3, 1, 2, 4])
    row, neighbour, weight = ease_weights(user, item, 5, max_items=2, n_neighbours=1)
    assert list(zip(row.tolist(), neighbour.tolist(), strict=True)) == [(1, 2), (2, 1)]
    assert (weight > 0).all()


def test_a_shop_in_which_nothing_has_two_buyers_has_no_weights() -> None:
    row, _, weight = ease_weights(np.array([0, 1, 2]), np.array([1, 2, 3]), 5, max_items=10, n_neighbours=5)
    assert len(row) == len(weight) == 0


def test_users_and_their_items_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for two items per user, pairs are their last two; with room for five users, the same five."""
    monkeypatch.setattr(ease_neighbours, "MAX_USER_ITEMS", 2)
    con = ibis.duckdb.connect()
    lines = [(user, item, 10 * user + item) for user in range(9) for item in (3, 1, 2)]
    values = ", ".join(f"({u}, {i}, {t}, {t})" for u, i, t in lines)
    con.raw_sql(f'CREATE TABLE lines AS SELECT * FROM (VALUES {values}) t("user", item, ts, available_at)')
    encoded = SimpleNamespace(lines=con.table("lines"))
    user, item = ease_neighbours.user_item_pairs(con, encoded, 1000)
    pairs = sorted(zip(user.tolist(), item.tolist(), strict=True))
    assert pairs == [(u, i) for u in range(9) for i in (2, 3)]
    monkeypatch.setattr(ease_neighbours, "MAX_USERS", 5)
    first, second = (set(ease_neighbours.user_item_pairs(con, encoded, 1000)[0].tolist()) for _ in range(2))
    assert first == second
    assert len(first) == 5
