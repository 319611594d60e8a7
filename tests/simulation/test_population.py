"""The users of the simulated market: what they order, click and buy, and what slates are worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.behaviour import MEAN_SPEND_RATIO
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START
from simulation.population import Population, SimulatedOrders

CFG = {"users": 60, "items": 120, "days": 40, "gap": 3.0, "slots": 6, "exploration": 0.1,
       "position_bias": 0.7, "seed": 3}  # fmt: skip


def simulate_days(count: int) -> list[tuple[SimulatedOrders, np.ndarray]]:
    """Orders and clicks of days in which everybody sees the slates of the shop's own policy."""
    population, days = Population(CFG), []
    for day in range(count):
        orders = population.simulate_orders(day)
        days.append((orders, population.simulate_feedback(day, orders, orders.rule_slate)))
    return days


def test_orders_lie_in_their_day_and_repeat() -> None:
    days = simulate_days(12)
    for day, (orders, _) in enumerate(days):
        start = SIMULATION_START + day * SECONDS_PER_DAY
        assert ((orders.ts >= start) & (orders.ts < start + SECONDS_PER_DAY)).all()
        assert (np.diff(orders.ts) >= 0).all()
        assert len(set(orders.user)) == len(orders.user)
        assert set(orders.line_order) == set(range(len(orders.user))), "every order has a line"
        assert orders.available[orders.line_order, orders.item].all(), "nothing is sold before it arrives"
    again = simulate_days(12)
    assert all(np.array_equal(a.item, b.item) for (a, _), (b, _) in zip(days, again, strict=True))


def test_clicked_items_are_in_the_next_order_or_are_dropped() -> None:
    clicked: dict[int, set[int]] = {}
    purchases = 0
    for orders, clicks in simulate_days(25):
        for row, user in enumerate(orders.user.tolist()):
            of_order = orders.line_order == row
            from_slate = set(orders.item[of_order & orders.from_slate].tolist())
            assert from_slate <= clicked.get(user, set())
            assert not (set(orders.item[of_order & ~orders.from_slate].tolist()) & clicked.get(user, set()))
            purchases += len(from_slate)
            clicked[user] = set(orders.rule_slate[row][clicks[row]].tolist())
    assert purchases > 50


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_slate_is_worth_more_than_the_oracle_s(seed: int) -> None:
    population = Population(CFG)
    orders = population.simulate_orders(0)
    rng = np.random.default_rng(seed)
    slate = np.stack([rng.permutation(np.flatnonzero(available))[:6] for available in orders.available])
    oracle = population.oracle_slates(orders)
    assert all(len(set(items)) == 6 for items in oracle.tolist())
    value = population.slate_value(orders, slate)
    assert (population.slate_value(orders, oracle) >= value - 1e-9).all()
    with_gaps = np.where(rng.random(slate.shape) < 0.3, -1, slate)
    assert (population.slate_value(orders, with_gaps) <= value + 1e-9).all()


def test_slate_value_is_what_users_spend() -> None:
    """Over many days, spend on items from slates equals the expected value of the slates."""
    population, value, spend = Population(CFG | {"users": 400}), 0.0, 0.0
    for day in range(30):
        orders = population.simulate_orders(day)
        spend += float((orders.quantity * orders.price)[orders.from_slate].sum())
        if day < 26:  # purchases from the last days' slates come after the end
            value += float(population.slate_value(orders, orders.rule_slate).sum())
        population.simulate_feedback(day, orders, orders.rule_slate)
    assert spend == pytest.approx(value, rel=0.1)


ORGANIC = CFG | {"users": 800, "organic": {"share": 0.6}}


def second_orders(is_shown: bool) -> tuple[float, float]:
    """List-price spend on every user's second order, and the value that slates after the first order add."""
    population, value, spend = Population(ORGANIC), 0.0, 0.0
    for day in range(25):
        orders = population.simulate_orders(day)
        number = population.order_count[orders.user]
        first, second = number == 1, number == 2
        mean_spend = population.items.price[orders.item] * MEAN_SPEND_RATIO
        spend += float(mean_spend[second[orders.line_order]].sum())
        slate = np.where(first[:, None] & is_shown, population.incremental_oracle_slates(orders), -1)
        value += float(population.incremental_slate_value(orders, slate).sum())
        population.simulate_feedback(day, orders, slate)
    assert (population.order_count >= 2).all()
    return spend, value


def test_incremental_slate_value_is_what_slates_add() -> None:
    """With the same random numbers, next orders after slates are dearer by the value of the slates."""
    (with_slates, value), (without, nothing) = second_orders(True), second_orders(False)
    assert nothing == 0
    assert with_slates - without == pytest.approx(value, rel=0.08)


def test_slates_take_credit_for_organic_purchases() -> None:
    population, credit, added = Population(ORGANIC), 0.0, 0.0
    for day in range(12):
        orders = population.simulate_orders(day)
        assert orders.needed is not None
        assert orders.needed.any(1).all(), "no order is empty"
        slate = population.oracle_slates(orders)
        assert np.take_along_axis(orders.available, slate, 1).all()
        assert (~orders.available).all(0).any(), "some items are in no slot"
        credit += float(population.slate_value(orders, slate).sum())
        added += float(population.incremental_slate_value(orders, slate).sum())
        best = population.incremental_slate_value(orders, population.incremental_oracle_slates(orders))
        assert (best >= population.incremental_slate_value(orders, slate) - 1e-5).all()
        population.simulate_feedback(day, orders, slate)
    assert added < 0.7 * credit


def test_increments_need_organic_demand() -> None:
    population = Population(CFG)
    orders = population.simulate_orders(0)
    with pytest.raises(ValueError, match=r"set data\.organic\.share to a number from 0 to 0\.9"):
        population.incremental_oracle_slates(orders)
