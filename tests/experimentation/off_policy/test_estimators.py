"""What the estimators promise, held against every slate that can be drawn rather than against a few draws."""

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

ITEMS, SLOTS = 5, 3
SLATES = np.array(list(itertools.permutations(range(ITEMS), SLOTS)))  # every slate there is
SEEN = np.array([1.0, 0.6, 0.4])
REWARDS = {  # what the shopper of each model may do: reward of each slot of the slates [n, K]
    "position": lambda rng, s: SEEN * rng.random(ITEMS)[s],
    "slot": lambda rng, s: rng.random((ITEMS, SLOTS))[s, np.arange(SLOTS)],
    "cascade": lambda rng, s: np.stack(
        [rng.random((ITEMS + 1,) * SLOTS)[_above(s, slot)] for slot in range(SLOTS)], axis=1
    ),
    "slate": lambda rng, s: rng.random(s.shape),
}  # fmt: skip


def _above(slates: np.ndarray, slot: int) -> tuple[np.ndarray, ...]:
    """Index of what stands at the slots up to this one; ITEMS stands for those below, which do not count."""
    return tuple(np.where(np.arange(SLOTS) <= slot, slates, ITEMS).T)


class World:
    """Two softmax policies over all slates: chances of a slate, and weights by shopper model."""

    def __init__(self, rng: np.random.Generator) -> None:
        logged, new = rng.normal(0, 1, (2, 1, ITEMS))
        above = [
            plackett_luce.conditional_probabilities(np.repeat(s, len(SLATES), 0), SLATES)
            for s in (new, logged)
        ]
        at = [plackett_luce.slot_probabilities(s, SLOTS)[0] for s in (new, logged)]  # [K, I]
        self.new, self.logged = (chance.prod(1) for chance in above)
        self.at_new = at[0]
        self.weight = {
            "position": importance_weights.importance_ratio(*((SEEN @ chance)[SLATES] for chance in at)),
            "slot": importance_weights.importance_ratio(*(chance[np.arange(SLOTS), SLATES] for chance in at)),
            "cascade": importance_weights.cascade_weights(*above),
            "slate": importance_weights.slate_weights(*above),
        }


@pytest.mark.parametrize("shopper", importance_weights.SHOPPER_MODELS)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_ips_is_unbiased_for_the_shoppers_of_its_weights(shopper: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(rng)
    reward = REWARDS[shopper](rng, SLATES)
    true = world.new @ reward.sum(1)
    for model in importance_weights.SHOPPER_MODELS[
        importance_weights.SHOPPER_MODELS.index(shopper) :
    ]:  # those that assume less are right too
        assert world.logged @ ips(reward, world.weight[model]) == pytest.approx(true, abs=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_doubly_robust_is_unbiased_with_any_reward_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = World(rng)
    for shopper in ("position", "slot"):
        reward = REWARDS[shopper](rng, SLATES)
        model = rng.normal(0, 1, ITEMS)
        direct = np.full(len(SLATES), (SEEN * (world.at_new @ model)).sum())
        terms = doubly_robust(reward, world.weight[shopper], SEEN * model[SLATES], direct)
        assert world.logged @ terms == pytest.approx(world.new @ reward.sum(1), abs=1e-9)


def test_a_shopper_who_reads_on_misleads_the_weights_that_assume_otherwise() -> None:
    rng = np.random.default_rng(0)
    world = World(rng)
    reward = REWARDS["cascade"](rng, SLATES)
    true = world.new @ reward.sum(1)
    assert abs(world.logged @ ips(reward, world.weight["slot"]) - true) > 0.01
    assert abs(world.logged @ ips(reward, world.weight["position"]) - true) > 0.01


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_what_policies_agree_on_is_what_was_logged(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    reward, even = rng.random((50, SLOTS)), np.ones((50, SLOTS))
    user = rng.integers(0, 20, 50)
    logged = clustered_mean(reward.sum(1), user)
    predicted = rng.random((50, SLOTS))
    for terms in (
        ips(reward, even),
        snips(reward, scale * even, SEEN),
        doubly_robust(reward, even, predicted, predicted.sum(1)),
    ):
        assert clustered_mean(terms, user).value == pytest.approx(logged.value)


def test_snips_is_the_ratio_and_its_error_that_of_the_jackknife() -> None:
    rng = np.random.default_rng(1)
    n = 2000
    user, weight = rng.integers(0, 400, n), rng.exponential(1, (n, SLOTS))
    reward = SEEN * (rng.random((n, SLOTS)) < 0.3)

    def plain(rows: np.ndarray) -> float:
        return float(SEEN.sum() * (weight[rows] * reward[rows]).sum() / (weight[rows] @ SEEN).sum())

    found = clustered_mean(snips(reward, weight, SEEN), user)
    assert found.value == pytest.approx(plain(np.ones(n, bool)))
    names = np.unique(user)
    without = np.array([plain(user != name) for name in names])
    jackknife = np.sqrt((len(names) - 1) / len(names) * ((without - without.mean()) ** 2).sum())
    assert found.se == pytest.approx(jackknife, rel=0.02)
    assert np.isnan(snips(reward, 0 * weight, SEEN)).all()


def test_intervals_are_students_and_robust_to_repeated_sessions() -> None:
    terms = np.random.default_rng(2).exponential(1, 30)
    once = clustered_mean(terms, np.arange(30))
    low, high = stats.t.interval(0.95, 29, terms.mean(), stats.sem(terms))
    assert (once.low, once.high) == (pytest.approx(low), pytest.approx(high))
    again = clustered_mean(np.repeat(terms, 7), np.repeat(np.arange(30), 7))
    assert again == pytest.approx(once)  # seven times the same says nothing new
    assert np.isnan(clustered_mean(terms, np.zeros(30)).se)


def test_health_says_what_weights_are_worth() -> None:
    n = 4000
    user = np.arange(n)
    weight = np.zeros((n, 1))
    weight[::4] = 2.0  # half of the new policy has no support
    half = weight_diagnostics(weight, np.ones(1), user)
    assert (half.effective_sample_size, half.max_weight) == (n / 4, 2.0)
    assert half.support.low < 0.5 < half.support.high
    assert [line for line in weight_warnings(half) if "no support for 50%" in line]
    assert not weight_warnings(weight_diagnostics(np.ones((n, 1)), np.ones(1), user))
    heavy = np.ones((n, 1))
    heavy[0] = 10 * n
    said = " ".join(weight_warnings(weight_diagnostics(heavy, np.ones(1), user)))
    assert "not enough data" in said
    assert "carries 91% of all weight" in said
    wrong = " ".join(weight_warnings(weight_diagnostics(1.5 * np.ones((n, 1)), np.ones(1), user)))
    assert "propensities are not those" in wrong
    assert "only 3 users" in " ".join(
        weight_warnings(weight_diagnostics(np.ones((n, 1)), np.ones(1), user % 3))
    )


def test_clipping_is_reported() -> None:
    whole = np.array([[1.0], [1.0], [8.0]])
    less = importance_weights.clip_weights(whole, 3.0)
    assert less.max() == 3.0
    assert importance_weights.clip_weights(whole, None) is whole
    found = weight_diagnostics(less, np.ones(1), np.arange(3), whole)
    assert found.clipped_share == pytest.approx(0.5)
    assert found.support.value == pytest.approx(10 / 3)  # clipping is no lack of support
    assert "clipping took 50.0%" in " ".join(weight_warnings(found))


def test_a_verdict_needs_data_and_support() -> None:
    def state(effective: float, high: float) -> WeightDiagnostics:
        return WeightDiagnostics(
            1000, 1000, effective, 1.0, 0.0, clustered_mean(np.array([high, high]), np.arange(2)), 0.0
        )

    more, less, unsure = (
        clustered_mean(np.array([a, b]), np.arange(2)) for a, b in ((1.0, 1.01), (-1.0, -1.01), (-1.0, 1.0))
    )
    assert policy_verdict(more, state(500, 1.0)) == "better"
    assert policy_verdict(less, state(500, 1.0)) == "worse"
    assert policy_verdict(unsure, state(500, 1.0)) == "not enough data"
    assert policy_verdict(more, state(50, 1.0)) == "not enough data"
    assert policy_verdict(more, state(500, 0.7)) == policy_verdict(unsure, state(500, 0.7)) == "no support"
    assert policy_verdict(more, state(500, 0.7), is_lower_bound=True) == "better"
    assert policy_verdict(less, state(500, 0.7), is_lower_bound=True) == "no support"


def test_what_was_shown_had_a_chance() -> None:
    with pytest.raises(ValueError, match="not above 0"):
        importance_weights.importance_ratio(np.ones((1, 2)), np.array([[0.5, 0.0]]))
