"""What every policy promises, on days of a small shop."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from experimentation.exploration import learner, policies, simulated_shop
from experimentation.exploration.comparison import (
    FULL_FEEDBACK,
    ORACLE,
    POLICIES,
    ShopRun,
    new_item_metrics,
    run_policies,
    update_beliefs,
)
from experimentation.exploration.learner import Beliefs
from experimentation.exploration.simulated_shop import Day, ShopConfig
from experimentation.off_policy.simulated_logs import EXAMINATION_PROBABILITY
from serving.pipeline.explore import EXPLORATION_POOL_SIZE

SMALL = ShopConfig(0, days=40, checkouts_per_day=20, items=50)


@cache
def shop() -> list[Day]:
    return list(simulated_shop.simulate_days(SMALL))


@cache
def warm() -> Beliefs:
    """What the shop's own slates of the warm days taught."""
    rng = np.random.default_rng(0)
    heads = Beliefs(*(learner.prior(simulated_shop.N_FEATURES, SMALL.items) for _ in Beliefs._fields))
    for day in shop()[: simulated_shop.WARMUP_DAYS]:
        heads = update_beliefs(heads, day, policies.shop_policy(day, rng), EXAMINATION_PROBABILITY)
    return heads


@pytest.mark.parametrize("name", POLICIES)
@given(number=st.integers(-simulated_shop.WARMUP_DAYS, SMALL.days - 1), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_slates_are_six_distinct_items_that_have_arrived(name: str, number: int, seed: int) -> None:
    day, rng = shop()[simulated_shop.WARMUP_DAYS + number], np.random.default_rng(seed)
    slate = POLICIES[name](warm(), day, rng)
    assert slate.shape == (SMALL.checkouts_per_day, len(EXAMINATION_PROBABILITY))
    assert all(len(set(row)) == len(EXAMINATION_PROBABILITY) for row in slate.tolist())
    assert day.available[slate].all()
    assert (simulated_shop.arrival_days(simulated_shop.shop_items(SMALL))[slate] <= number).all()
    most = day.slate_revenue(policies.oracle(warm(), day, rng)).sum(1)
    assert (day.slate_revenue(slate).sum(1) <= most + 1e-9).all()


def test_no_width_and_no_chance_are_greedy() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    greedy = policies.greedy(warm(), day, rng)
    for policy in (policies.thompson(0.0), policies.linucb(0.0), policies.epsilon_last_slot(0.0)):
        np.testing.assert_array_equal(policy(warm(), day, rng), greedy)
    for policy in (policies.thompson(1.0), policies.linucb(1.0), policies.epsilon_last_slot(1.0)):
        assert (policy(warm(), day, rng) != greedy).any()


def test_the_slot_explores_as_serving_does() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    score = np.where(day.available, policies.expected_value(warm(), day), -np.inf)
    order = np.argsort(-score, axis=1)
    last = np.zeros((SMALL.checkouts_per_day, SMALL.items))
    for _ in range(300):
        slate = policies.epsilon_last_slot(0.5)(warm(), day, rng)
        np.testing.assert_array_equal(slate[:, :-1], order[:, : len(EXAMINATION_PROBABILITY) - 1])
        last[np.arange(SMALL.checkouts_per_day), slate[:, -1]] += 1 / 300
    pool = np.take_along_axis(
        last, order[:, len(EXAMINATION_PROBABILITY) - 1 :][:, :EXPLORATION_POOL_SIZE], 1
    )
    assert pool.sum(1) == pytest.approx(1)
    assert pool[:, 0].mean() == pytest.approx(0.5 + 0.5 / EXPLORATION_POOL_SIZE, abs=0.03)
    assert pool[:, 1:].mean() == pytest.approx(0.5 / EXPLORATION_POOL_SIZE, abs=0.005)


def test_the_upper_bound_prefers_whom_nobody_knows() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    fresh = simulated_shop.arrival_days(simulated_shop.shop_items(SMALL)) >= 0
    shares = [fresh[policies.linucb(width)(warm(), day, rng)].mean() for width in (0.0, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert shares[2] > shares[0]


def test_answers_come_with_the_chances_that_they_should() -> None:
    days = shop()
    clicks, buys, n = (
        np.zeros((2, len(EXAMINATION_PROBABILITY))),
        np.zeros((2, len(EXAMINATION_PROBABILITY))),
        0,
    )
    for day in days:
        slate = policies.uniform_random(
            warm(), day, np.random.default_rng(day.number + simulated_shop.WARMUP_DAYS)
        )
        clicked, bought = day.sample_feedback(slate, EXAMINATION_PROBABILITY)
        chance = EXAMINATION_PROBABILITY * np.take_along_axis(day.p_click_given_examined, slate, 1)
        clicks += clicked.sum(0), chance.sum(0)
        buys += bought.sum(0), (chance * np.take_along_axis(day.p_purchase_given_click, slate, 1)).sum(0)
        assert not (bought & ~clicked).any()
        n += len(slate)
    for got, expected in (clicks, buys):
        assert (np.abs(got - expected) < 4 * np.sqrt(expected)).all()
        assert expected[0] > expected[-1]


def test_appeal_raises_what_people_like() -> None:
    plain = shop()[-1]
    *_, more = simulated_shop.simulate_days(SMALL._replace(appeal_weight=0.8))
    appeal = simulated_shop.shop_items(SMALL).appeal
    np.testing.assert_array_equal(plain.features, more.features)
    for one, other in (
        (plain.p_click_given_examined, more.p_click_given_examined),
        (plain.p_purchase_given_click, more.p_purchase_given_click),
    ):
        logits = (np.log(p / (1 - p)) for p in (one, other))
        np.testing.assert_allclose(-np.subtract(*logits), np.broadcast_to(0.8 * appeal, one.shape), atol=1e-4)


@cache
def ran() -> ShopRun:
    return run_policies(SMALL, tqdm(disable=True))


def test_the_oracle_has_no_regret_and_random_more_than_greedy() -> None:
    earned = {name: tally.revenue for name, tally in ran().policy_days.items()}
    for name, some in earned.items():
        assert (some <= earned[ORACLE] + 1e-9).all(), name
    assert earned["random"].mean() < 0.5 * earned["none"].mean()
    assert earned["none"].mean() > 0.8 * earned[ORACLE].mean()
    assert earned[FULL_FEEDBACK].mean() > earned["ε = 1"].mean()
    assert (ran().policy_days["none"].greedy_revenue == ran().policy_days["none"].revenue).all()


def test_new_items_are_counted_from_their_arrival() -> None:
    first = np.array([-20, 0, 2, 30])
    shown, worth = np.zeros((40, 4)), np.ones((40, 4))
    shown[:, 0] = 8
    shown[:, 1] = 1
    shown[2:, 2] = 2
    shown[30:, 3] = 9
    worth[:, 2] = 5  # the best of the two that can be followed for 21 days
    worth[:, 3] = 50
    found = new_item_metrics(shown, worth, first)
    assert found["best"] == 2 * 21
    assert found["wait"] == 21  # it has 42 of 50
    assert found["share"] == pytest.approx((40 + 76 + 90) / (320 + 40 + 76 + 90))
    assert new_item_metrics(3 * shown, worth, first)["wait"] == 8  # 48 after eight days, 54 after nine
