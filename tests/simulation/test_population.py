"""The people of the marketplace: what they order, click and buy, and what slates are worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.market import DAY, SIMULATION_START
from simulation.population import Population, SimulatedOrders

CFG = {"users": 60, "items": 120, "days": 40, "gap": 3.0, "slots": 6, "exploration": 0.1,
       "position_bias": 0.7, "seed": 3}  # fmt: skip


def days(count: int) -> tuple[Population, list[tuple[SimulatedOrders, np.ndarray]]]:
    """Some days in which everybody sees the slates of the old rules."""
    crowd, found = Population(CFG), []
    for day in range(count):
        orders = crowd.simulate_orders(day)
        found.append((orders, crowd.simulate_feedback(day, orders, orders.rule_slate)))
    return crowd, found


def test_days_follow_one_another() -> None:
    _, found = days(12)
    for day, (orders, _) in enumerate(found):
        assert (
            (orders.ts >= SIMULATION_START + day * DAY) & (orders.ts < SIMULATION_START + (day + 1) * DAY)
        ).all()
        assert (np.diff(orders.ts) >= 0).all()
        assert len(set(orders.user)) == len(orders.user)
        assert set(orders.line_order) == set(range(len(orders.user))), "nobody pays for nothing"
        assert orders.available[orders.line_order, orders.item].all(), "nothing is sold before it is there"
    again = days(12)[1]
    assert all(np.array_equal(a.item, b.item) for (a, _), (b, _) in zip(found, again, strict=True))


def test_what_was_clicked_is_bought_next_or_not_at_all() -> None:
    _, found = days(25)
    clicked: dict[int, set[int]] = {}
    followed = 0
    for orders, clicks in found:
        for k, user in enumerate(orders.user.tolist()):
            mine = orders.line_order == k
            led = set(orders.item[mine & orders.from_slate].tolist())
            assert led <= clicked.get(user, set())
            assert not (set(orders.item[mine & ~orders.from_slate].tolist()) & clicked.get(user, set()))
            followed += len(led)
            clicked[user] = set(orders.rule_slate[k][clicks[k]].tolist())
    assert followed > 50


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_slate_is_worth_more_than_the_oracle_s(seed: int) -> None:
    crowd = Population(CFG)
    orders = crowd.simulate_orders(0)
    rng = np.random.default_rng(seed)
    slate = np.stack([rng.permutation(np.flatnonzero(there))[:6] for there in orders.available])
    best = crowd.oracle_slates(orders)
    assert all(len(set(six)) == 6 for six in best.tolist())
    assert (crowd.slate_value(orders, best) >= crowd.slate_value(orders, slate) - 1e-9).all()
    gone = np.where(rng.random(slate.shape) < 0.3, -1, slate)
    assert (crowd.slate_value(orders, gone) <= crowd.slate_value(orders, slate) + 1e-9).all()


def test_worth_is_what_people_spend() -> None:
    """Over many days the money that slates led to is what they were said to be worth."""
    crowd, worth, spent = Population(CFG | {"users": 400}), 0.0, 0.0
    for day in range(30):
        orders = crowd.simulate_orders(day)
        spent += float((orders.quantity * orders.price)[orders.from_slate].sum())
        worth += float(crowd.slate_value(orders, orders.rule_slate).sum()) * (
            day < 26
        )  # the last are not bought yet
        crowd.simulate_feedback(day, orders, orders.rule_slate)
    assert spent == pytest.approx(worth, rel=0.1)
