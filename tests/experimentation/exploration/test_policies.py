"""The guarantees of every policy, on days of a small shop."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from experimentation.exploration import learner, policies, simulated_shop
from experimentation.exploration.comparison import (
    FULL_FEEDBACK,
    NO_EXPLORATION,
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
def warm_beliefs() -> Beliefs:
    """The beliefs after the warm-up."""
    rng = np.random.default_rng(0)
    beliefs = Beliefs(*(learner.prior(simulated_shop.N_FEATURES, SMALL.items) for _ in Beliefs._fields))
    for day in shop()[: simulated_shop.WARMUP_DAYS]:
        beliefs = update_beliefs(beliefs, day, policies.shop_policy(day, rng), EXAMINATION_PROBABILITY)
    return beliefs


@pytest.mark.parametrize("name", POLICIES)
@given(number=st.integers(-simulated_shop.WARMUP_DAYS, SMALL.days - 1), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_slates_are_six_distinct_items_that_have_arrived(name: str, number: int, seed: int) -> None:
    day, rng = shop()[simulated_shop.WARMUP_DAYS + number], np.random.default_rng(seed)
    slate = POLICIES[name](warm_beliefs(), day, rng)
    assert slate.shape == (SMALL.checkouts_per_day, len(EXAMINATION_PROBABILITY))
    assert all(len(set(row)) == len(EXAMINATION_PROBABILITY) for row in slate.tolist())
    assert day.available[slate].all()
    assert (simulated_shop.arrival_days(simulated_shop.shop_items(SMALL))[slate] <= number).all()
    best = day.slate_revenue(policies.oracle(warm_beliefs(), day, rng)).sum(1)
    assert (day.slate_revenue(slate).sum(1) <= best + 1e-9).all()


def test_zero_width_and_zero_epsilon_are_greedy() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    greedy = policies.greedy(warm_beliefs(), day, rng)
    for policy in (policies.thompson(0.0), policies.linucb(0.0), policies.epsilon_last_slot(0.0)):
        np.testing.assert_array_equal(policy(warm_beliefs(), day, rng), greedy)
    for policy in (policies.thompson(1.0), policies.linucb(1.0), policies.epsilon_last_slot(1.0)):
        assert (policy(warm_beliefs(), day, rng) != greedy).any()


def test_the_last_slot_explores_as_in_serving() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    score = np.where(day.available, policies.expected_value(warm_beliefs(), day), -np.inf)
    order = np.argsort(-score, axis=1)
    last_slot = np.zeros((SMALL.checkouts_per_day, SMALL.items))
    for _ in range(300):
        slate = policies.epsilon_last_slot(0.5)(warm_beliefs(), day, rng)
        np.testing.assert_array_equal(slate[:, :-1], order[:, : len(EXAMINATION_PROBABILITY) - 1])
        last_slot[np.arange(SMALL.checkouts_per_day), slate[:, -1]] += 1 / 300
    pool = np.take_along_axis(
        last_slot, order[:, len(EXAMINATION_PROBABILITY) - 1 :][:, :EXPLORATION_POOL_SIZE], 1
    )
    assert pool.sum(1) == pytest.approx(1)
    assert pool[:, 0].mean() == pytest.approx(0.5 + 0.5 / EXPLORATION_POOL_SIZE, abs=0.03)
    assert pool[:, 1:].mean() == pytest.approx(0.5 / EXPLORATION_POOL_SIZE, abs=0.005)


def test_a_wider_bound_prefers_new_items() -> None:
    day, rng = shop()[-1], np.random.default_rng(0)
    is_new = simulated_shop.arrival_days(simulated_shop.shop_items(SMALL)) >= 0
    shares = [is_new[policies.linucb(width)(warm_beliefs(), day, rng)].mean() for width in (0.0, 1.0, 3.0)]
    assert shares == sorted(shares)
    assert shares[2] > shares[0]


def test_feedback_has_the_true_probabilities() -> None:
    # Observed and expected counts by slot.
    clicks, purchases = (np.zeros((2, len(EXAMINATION_PROBABILITY))) for _ in range(2))
    for day in shop():
        slate = policies.uniform_random(
            warm_beliefs(), day, np.random.default_rng(day.number + simulated_shop.WARMUP_DAYS)
        )
        clicked, purchased = day.sample_feedback(slate, EXAMINATION_PROBABILITY)
        p_click = EXAMINATION_PROBABILITY * np.take_along_axis(day.p_click_given_examined, slate, 1)
        clicks += clicked.sum(0), p_click.sum(0)
        purchases += (
            purchased.sum(0),
            (p_click * np.take_along_axis(day.p_purchase_given_click, slate, 1)).sum(0),
        )
        assert not (purchased & ~clicked).any()
    for observed, expected in (clicks, purchases):
        assert (np.abs(observed - expected) < 4 * np.sqrt(expected)).all()
        assert expected[0] > expected[-1]


def test_the_appeal_weight_shifts_both_logits() -> None:
    plain = shop()[-1]
    *_, shifted = simulated_shop.simulate_days(SMALL._replace(appeal_weight=0.8))
    appeal = simulated_shop.shop_items(SMALL).appeal
    np.testing.assert_array_equal(plain.features, shifted.features)
    for base, raised in (
        (plain.p_click_given_examined, shifted.p_click_given_examined),
        (plain.p_purchase_given_click, shifted.p_purchase_given_click),
    ):
        logits = (np.log(p / (1 - p)) for p in (base, raised))
        np.testing.assert_allclose(
            -np.subtract(*logits), np.broadcast_to(0.8 * appeal, base.shape), atol=1e-4
        )


@cache
def small_run() -> ShopRun:
    return run_policies(SMALL, tqdm(disable=True))


def test_the_oracle_has_no_regret_and_random_more_than_greedy() -> None:
    revenue = {name: days.revenue for name, days in small_run().policy_days.items()}
    for name, by_day in revenue.items():
        assert (by_day <= revenue[ORACLE] + 1e-9).all(), name
    assert revenue["random"].mean() < 0.5 * revenue[NO_EXPLORATION].mean()
    assert revenue[NO_EXPLORATION].mean() > 0.8 * revenue[ORACLE].mean()
    assert revenue[FULL_FEEDBACK].mean() > revenue["ε = 1"].mean()
    baseline = small_run().policy_days[NO_EXPLORATION]
    assert (baseline.greedy_revenue == baseline.revenue).all()


def test_new_items_are_counted_from_their_arrival() -> None:
    arrival_day = np.array([-20, 0, 2, 30])
    impressions, item_value = np.zeros((40, 4)), np.ones((40, 4))
    impressions[:, 0] = 8
    impressions[:, 1] = 1
    impressions[2:, 2] = 2
    impressions[30:, 3] = 9
    item_value[:, 2] = 5  # the best of the two that can be followed for 21 days
    item_value[:, 3] = 50
    metrics = new_item_metrics(impressions, item_value, arrival_day)
    assert metrics["top_new_impressions"] == 2 * 21
    assert metrics["days_to_discovery"] == 21  # it has 42 of 50
    assert metrics["new_item_share"] == pytest.approx((40 + 76 + 90) / (320 + 40 + 76 + 90))
    tripled = new_item_metrics(3 * impressions, item_value, arrival_day)
    assert tripled["days_to_discovery"] == 8  # 48 after eight days, 54 after nine
