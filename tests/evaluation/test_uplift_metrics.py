"""Uplift curves against plain loops, and the ghost estimators against a known truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.uplift_metrics import (
    RandomizedPairs,
    area_under_uplift_curve,
    bootstrap_qini,
    doubly_robust_gains,
    inverse_propensity_gains,
    qini,
    uplift_curve,
)

GAINS = st.lists(st.floats(-5, 5), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(GAINS, st.integers(0, 1000))
def test_the_area_is_the_mean_of_all_prefixes(gains: list[float], seed: int) -> None:
    gain, score = np.array(gains), np.random.default_rng(seed).permutation(len(gains)).astype(float)
    best_first = [gains[i] for i in np.argsort(-score)]
    prefixes = [sum(best_first[: k + 1]) / len(gains) for k in range(len(gains))]
    assert area_under_uplift_curve(score, gain) == pytest.approx(np.mean(prefixes), abs=1e-9)
    assert uplift_curve(score, gain, len(gains)) == pytest.approx([0.0, *prefixes], abs=1e-9)
    assert qini(gain, gain) >= qini(score, gain) - 1e-9  # no order beats that of the gains


def test_an_order_by_chance_has_no_qini() -> None:
    rng = np.random.default_rng(0)
    gain = rng.gamma(1.0, 2.0, 60_000)
    assert abs(qini(rng.random(len(gain)), gain)) < 0.01
    assert qini(gain, gain) > 0.4
    assert qini(-gain, gain) == pytest.approx(-qini(gain, gain), abs=1e-4)


def randomized(seed: int, n: int, error: float) -> tuple[RandomizedPairs, np.ndarray]:
    """Pairs held back with chance .1 or .3, predicted with a relative error, and their true gains."""
    rng = np.random.default_rng(seed)
    organic, added = rng.beta(1, 4, n), 0.3 * rng.beta(2, 3, n)
    withhold = np.where(rng.random(n) < 0.5, 0.1, 0.3)
    shown = rng.random(n) >= withhold
    outcome = 3.0 * (rng.random(n) < np.where(shown, organic + added * (1 - organic), organic))
    truth = 3 * added * (1 - organic)
    pairs = RandomizedPairs(shown, withhold, outcome, (1 + error) * (3 * organic + truth), 3 * organic)
    return pairs, truth


@pytest.mark.parametrize("error", [0.0, 0.5])
def test_gains_are_unbiased_and_good_predictions_halve_the_noise(error: float) -> None:
    pairs, truth = randomized(1, 60_000, error)
    plain, robust = inverse_propensity_gains(pairs), doubly_robust_gains(pairs)
    for gains in (plain, robust):
        assert abs(gains.mean() - truth.mean()) < 4 * gains.std() / np.sqrt(len(gains))
    if not error:
        assert robust.std() < 0.95 * plain.std()
    scores = truth, np.random.default_rng(2).random(len(truth))
    assert qini(scores[0], robust) == pytest.approx(qini(scores[0], truth), abs=0.03)
    difference = bootstrap_qini(*scores, robust, np.arange(len(truth)) // 20, n_resamples=40)
    assert difference.low > 0
    assert difference.low < qini(scores[0], truth) < difference.high + 0.01
