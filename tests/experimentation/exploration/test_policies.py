"""What every policy promises, on days of a small shop."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from experimentation.exploration import learner, policies, simulated_shop
from experimentation.exploration.comparison import INFORMED, ORACLE, POLICIES, Ran, new_items, run, told
from experimentation.exploration.learner import Heads
from experimentation.exploration.simulated_shop import Day, Shop
from experimentation.off_policy.simulated_logs import SEEN
from serving.pipeline.explore import POOL

SMALL = Shop(0, days=40, checkouts=20, items=50)


@cache
def shop() -> list[Day]:
    return list(simulated_shop.days(SMALL))


@cache
def warm() -> Heads:
    """What the shop's own slates of the warm days taught."""
    rng = np.random.default_rng(0)
    heads = Heads(*(learner.prior(simulated_shop.FACTS, SMALL.items) for _ in Heads._fields))
    for day in shop()[: simulated_shop.WARM]:
        heads = told(heads, day, policies.shop(day, rng), SEEN)
    return heads


@pytest.mark.parametrize("name", POLICIES)
@given(number=st.integers(-simulated_shop.WARM, SMALL.days - 1), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_slates_are_six_distinct_items_that_have_arrived(name: str, number: int, seed: int) -> None:
    day, rng = shop()[simulated_shop.WARM + number], np.random.default_rng(seed)
    slate = POLICIES[name](warm(), day, rng)
    assert slate.shape == (SMALL.checkouts, len(SEEN))
    assert all(len(set(row)) == len(SEEN) for row in slate.tolist())
    assert day.there[slate].all()
    assert (simulated_shop.arrivals(simulated_shop.catalog(SMALL))[slate] <= number).all()
    most = day.earned(policies.oracle(warm(), day, rng)).sum(1)
    assert (day.earned(slate).sum(1) <= most + 1e-9).all()


def test_no_width_and_no_chance_are_greedy() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    greedy = policies.greedy(warm(), day, rng)
    for policy in (policies.thompson(0.0), policies.linucb(0.0), policies.slot(0.0)):
        np.testing.assert_array_equal(policy(warm(), day, rng), greedy)
    for policy in (policies.thompson(1.0), policies.linucb(1.0), policies.slot(1.0)):
        assert (policy(warm(), day, rng) != greedy).any()


def test_the_slot_explores_as_serving_does() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    score = np.where(day.there, policies.believed(warm(), day), -np.inf)
    order = np.argsort(-score, axis=1)
    last = np.zeros((SMALL.checkouts, SMALL.items))
    for _ in range(300):
        slate = policies.slot(0.5)(warm(), day, rng)
        np.testing.assert_array_equal(slate[:, :-1], order[:, : len(SEEN) - 1])
        last[np.arange(SMALL.checkouts), slate[:, -1]] += 1 / 300
    pool = np.take_along_axis(last, order[:, len(SEEN) - 1 :][:, :POOL], 1)
    assert pool.sum(1) == pytest.approx(1)
    assert pool[:, 0].mean() == pytest.approx(0.5 + 0.5 / POOL, abs=0.03)
    assert pool[:, 1:].mean() == pytest.approx(0.5 / POOL, abs=0.005)


def test_the_upper_bound_prefers_whom_nobody_knows() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    fresh = simulated_shop.arrivals(simulated_shop.catalog(SMALL)) >= 0
    shares = [fresh[policies.linucb(width)(warm(), day, rng)].mean() for width in (0.0, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert shares[2] > shares[0]


def test_answers_come_with_the_chances_that_they_should() -> None:
    days = shop()
    clicks, buys, n = np.zeros((2, len(SEEN))), np.zeros((2, len(SEEN))), 0
    for day in days:
        slate = policies.even(warm(), day, np.random.default_rng(day.number + simulated_shop.WARM))
        clicked, bought = day.answers(slate, SEEN)
        chance = SEEN * np.take_along_axis(day.click, slate, 1)
        clicks += clicked.sum(0), chance.sum(0)
        buys += bought.sum(0), (chance * np.take_along_axis(day.buy, slate, 1)).sum(0)
        assert not (bought & ~clicked).any()
        n += len(slate)
    for got, expected in (clicks, buys):
        assert (np.abs(got - expected) < 4 * np.sqrt(expected)).all()
        assert expected[0] > expected[-1]


def test_appeal_raises_what_people_like() -> None:
    plain = shop()[-1]
    *_, more = simulated_shop.days(SMALL._replace(appeal=0.8))
    appeal = simulated_shop.catalog(SMALL).appeal
    np.testing.assert_array_equal(plain.facts, more.facts)
    for one, other in ((plain.click, more.click), (plain.buy, more.buy)):
        logits = (np.log(p / (1 - p)) for p in (one, other))
        np.testing.assert_allclose(-np.subtract(*logits), np.broadcast_to(0.8 * appeal, one.shape), atol=1e-4)


@cache
def ran() -> Ran:
    return run(SMALL, tqdm(disable=True))


def test_the_oracle_has_no_regret_and_random_more_than_greedy() -> None:
    earned = {name: tally.earned for name, tally in ran().tallies.items()}
    for name, some in earned.items():
        assert (some <= earned[ORACLE] + 1e-9).all(), name
    assert earned["random"].mean() < 0.5 * earned["none"].mean()
    assert earned["none"].mean() > 0.8 * earned[ORACLE].mean()
    assert earned[INFORMED].mean() > earned["ε = 1"].mean()
    assert (ran().tallies["none"].believed == ran().tallies["none"].earned).all()


def test_new_items_are_counted_from_their_arrival() -> None:
    first = np.array([-20, 0, 2, 30])
    shown, worth = np.zeros((40, 4)), np.ones((40, 4))
    shown[:, 0] = 8
    shown[:, 1] = 1
    shown[2:, 2] = 2
    shown[30:, 3] = 9
    worth[:, 2] = 5  # the best of the two that can be followed for 21 days
    worth[:, 3] = 50
    found = new_items(shown, worth, first)
    assert found["best"] == 2 * 21
    assert found["wait"] == 21  # it has 42 of 50
    assert found["share"] == pytest.approx((40 + 76 + 90) / (320 + 40 + 76 + 90))
    assert new_items(3 * shown, worth, first)["wait"] == 8  # 48 after eight days, 54 after nine
