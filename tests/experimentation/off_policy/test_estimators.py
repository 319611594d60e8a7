"""The estimators' guarantees, checked over every possible slate rather than over a few draws."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experimentation.off_policy import importance_weights, plackett_luce
from experimentation.off_policy.estimators import (
    WeightDiagnostics,
    clustered_mean,
    doubly_robust,
    ips,
    policy_verdict,
    snips,
    weight_diagnostics,
    weight_warnings,
)
from experimentation.off_policy.importance_weights import PolicyProbabilities

ITEMS, SLOTS = 5, 3
SLATES = np.array(list(itertools.permutations(range(ITEMS), SLOTS)))  # every possible slate
EXAMINATION_PROBABILITY = np.array([1.0, 0.6, 0.4])
REWARDS = {  # shopper model → rewards of the slates [n, K] that it allows
    "position": lambda rng, s: EXAMINATION_PROBABILITY * rng.random(ITEMS)[s],
    "slot": lambda rng, s: rng.random((ITEMS, SLOTS))[s, np.arange(SLOTS)],
    "cascade": lambda rng, s: np.stack(
        [rng.random((ITEMS + 1,) * SLOTS)[_above(s, slot)] for slot in range(SLOTS)], axis=1
    ),
    "slate": lambda rng, s: rng.random(s.shape),
}  # fmt: skip


def _above(slates: np.ndarray, slot: int) -> tuple[np.ndarray, ...]:
    """Index by the items at the slots up to this one; the slots below have the index ITEMS."""
    return tuple(np.where(np.arange(SLOTS) <= slot, slates, ITEMS).T)


class World:
    """Two softmax policies over all slates: slate probabilities, and weights by shopper model."""

    def __init__(self, rng: np.random.Generator) -> None:
        logging, target = rng.normal(0, 1, (2, 1, ITEMS))
        given_above = [
            plackett_luce.conditional_probabilities(np.repeat(score, len(SLATES), 0), SLATES)
            for score in (target, logging)
        ]
        at_slots = [
            plackett_luce.slot_probabilities(score, SLOTS)[0] for score in (target, logging)
        ]  # [K, I]
        self.target, self.logging = (probability.prod(1) for probability in given_above)
        self.target_at_slots = at_slots[0]
        self.weight = importance_weights.weights_by_shopper_model(
            examined=PolicyProbabilities(*((EXAMINATION_PROBABILITY @ part)[SLATES] for part in at_slots)),
            at_slot=PolicyProbabilities(*(part[np.arange(SLOTS), SLATES] for part in at_slots)),
            given_above=PolicyProbabilities(*given_above),
        )


@pytest.mark.parametrize("shopper", importance_weights.SHOPPER_MODELS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_ips_is_unbiased_for_the_shoppers_of_its_weights(shopper: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(rng)
    reward = REWARDS[shopper](rng, SLATES)
    true = world.target @ reward.sum(1)
    models = importance_weights.SHOPPER_MODELS
    for model in models[models.index(shopper) :]:  # weaker assumptions hold as well
        assert world.logging @ ips(reward, world.weight[model]) == pytest.approx(true, abs=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_doubly_robust_is_unbiased_with_any_reward_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(rng)
    for shopper in ("position", "slot"):
        reward = REWARDS[shopper](rng, SLATES)
        model = rng.normal(0, 1, ITEMS)
        direct = np.full(len(SLATES), (EXAMINATION_PROBABILITY * (world.target_at_slots @ model)).sum())
        terms = doubly_robust(reward, world.weight[shopper], EXAMINATION_PROBABILITY * model[SLATES], direct)
        assert world.logging @ terms == pytest.approx(world.target @ reward.sum(1), abs=1e-9)


def test_weights_are_biased_for_shoppers_who_violate_their_assumption() -> None:
    rng = np.random.default_rng(0)
    world = World(rng)
    reward = REWARDS["cascade"](rng, SLATES)
    true = world.target @ reward.sum(1)
    assert abs(world.logging @ ips(reward, world.weight["slot"]) - true) > 0.01
    assert abs(world.logging @ ips(reward, world.weight["position"]) - true) > 0.01


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_equal_policies_have_the_log_mean(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    reward, ones = rng.random((50, SLOTS)), np.ones((50, SLOTS))
    user = rng.integers(0, 20, 50)
    logged = clustered_mean(reward.sum(1), user)
    predicted = rng.random((50, SLOTS))
    for terms in (
        ips(reward, ones),
        snips(reward, scale * ones, EXAMINATION_PROBABILITY),
        doubly_robust(reward, ones, predicted, predicted.sum(1)),
    ):
        assert clustered_mean(terms, user).value == pytest.approx(logged.value)


def test_snips_is_the_ratio_and_its_error_that_of_the_jackknife() -> None:
    rng = np.random.default_rng(1)
    n = 2000
    user, weight = rng.integers(0, 400, n), rng.exponential(1, (n, SLOTS))
    reward = EXAMINATION_PROBABILITY * (rng.random((n, SLOTS)) < 0.3)

    def ratio(rows: np.ndarray) -> float:
        return float(
            EXAMINATION_PROBABILITY.sum()
            * (weight[rows] * reward[rows]).sum()
            / (weight[rows] @ EXAMINATION_PROBABILITY).sum()
        )

    estimate = clustered_mean(snips(reward, weight, EXAMINATION_PROBABILITY), user)
    assert estimate.value == pytest.approx(ratio(np.ones(n, bool)))
    names = np.unique(user)
    leave_one_out = np.array([ratio(user != name) for name in names])
    jackknife = np.sqrt((len(names) - 1) / len(names) * ((leave_one_out - leave_one_out.mean()) ** 2).sum())
    assert estimate.se == pytest.approx(jackknife, rel=0.02)
    assert np.isnan(snips(reward, 0 * weight, EXAMINATION_PROBABILITY)).all()


def test_intervals_are_students_and_robust_to_repeated_sessions() -> None:
    terms = np.random.default_rng(2).exponential(1, 30)
    once = clustered_mean(terms, np.arange(30))
    low, high = stats.t.interval(0.95, 29, terms.mean(), stats.sem(terms))
    assert (once.low, once.high) == (pytest.approx(low), pytest.approx(high))
    again = clustered_mean(np.repeat(terms, 7), np.repeat(np.arange(30), 7))
    assert again == pytest.approx(once)  # repeated sessions add no information
    assert np.isnan(clustered_mean(terms, np.zeros(30)).se)


def test_diagnostics_report_information_and_support() -> None:
    n = 4000
    user = np.arange(n)
    weight = np.zeros((n, 1))
    weight[::4] = 2.0  # half of the target policy has no support
    half = weight_diagnostics(weight, np.ones(1), user)
    assert (half.effective_sample_size, half.max_weight) == (n / 4, 2.0)
    assert half.support.low < 0.5 < half.support.high
    assert [line for line in weight_warnings(half) if "no support for 50%" in line]
    assert not weight_warnings(weight_diagnostics(np.ones((n, 1)), np.ones(1), user))
    heavy = np.ones((n, 1))
    heavy[0] = 10 * n
    warnings = " ".join(weight_warnings(weight_diagnostics(heavy, np.ones(1), user)))
    assert "not enough data" in warnings
    assert "carries 91% of the total weight" in warnings
    wrong = " ".join(weight_warnings(weight_diagnostics(1.5 * np.ones((n, 1)), np.ones(1), user)))
    assert "propensities are not those" in wrong
    assert "only 3 users" in " ".join(
        weight_warnings(weight_diagnostics(np.ones((n, 1)), np.ones(1), user % 3))
    )


def test_clipping_is_reported() -> None:
    whole = np.array([[1.0], [1.0], [8.0]])
    clipped = importance_weights.clip_weights(whole, 3.0)
    assert clipped.max() == 3.0
    assert importance_weights.clip_weights(whole, None) is whole
    diagnostics = weight_diagnostics(clipped, np.ones(1), np.arange(3), whole)
    assert diagnostics.clipped_share == pytest.approx(0.5)
    assert diagnostics.support.value == pytest.approx(10 / 3)  # clipping does not reduce support
    assert "clipping removes 50.0%" in " ".join(weight_warnings(diagnostics))


def test_a_verdict_needs_data_and_support() -> None:
    def diagnostics(sample_size: float, support: float) -> WeightDiagnostics:
        return WeightDiagnostics(
            1000, 1000, sample_size, 1.0, 0.0, clustered_mean(np.array([support, support]), np.arange(2)), 0.0
        )

    gain, loss, unsure = (
        clustered_mean(np.array([a, b]), np.arange(2)) for a, b in ((1.0, 1.01), (-1.0, -1.01), (-1.0, 1.0))
    )
    assert policy_verdict(gain, diagnostics(500, 1.0)) == "better"
    assert policy_verdict(loss, diagnostics(500, 1.0)) == "worse"
    assert policy_verdict(unsure, diagnostics(500, 1.0)) == "not enough data"
    assert policy_verdict(gain, diagnostics(50, 1.0)) == "not enough data"
    assert (
        policy_verdict(gain, diagnostics(500, 0.7))
        == policy_verdict(unsure, diagnostics(500, 0.7))
        == "no support"
    )
    assert policy_verdict(gain, diagnostics(500, 0.7), is_lower_bound=True) == "better"
    assert policy_verdict(loss, diagnostics(500, 0.7), is_lower_bound=True) == "no support"


def test_a_propensity_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="propensity of 0 or less"):
        importance_weights.importance_ratio(np.ones((1, 2)), np.array([[0.5, 0.0]]))
