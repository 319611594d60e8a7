"""The estimate is the inverse-probability difference, and its interval that of repeated coins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from experimentation.uplift.estimate import (
    Assignment,
    clustered_estimate,
    contrast,
    hajek_mean,
    incremental_share,
    withheld_ratio_p_value,
)

OUTCOMES = st.lists(
    st.tuples(st.floats(-100, 100), st.booleans(), st.sampled_from([0.1, 0.3, 0.5]), st.integers(0, 4)),
    min_size=4, max_size=30,
).filter(lambda rows: {is_shown for _, is_shown, *_ in rows} == {True, False})  # fmt: skip


@given(OUTCOMES)
def test_the_difference_is_of_means_weighted_by_inverse_probabilities(
    rows: list[tuple[float, bool, float, int]],
) -> None:
    outcome, is_shown, withhold, user = (np.array(column) for column in zip(*rows, strict=True))
    means = []
    for group in (True, False):
        members = [(y, 1 / ((1 - w) if s else w)) for y, s, w, _ in rows if s == group]
        means.append(sum(y * weight for y, weight in members) / sum(weight for _, weight in members))
    result = contrast(Assignment(user, is_shown, withhold), outcome)
    assert (result.shown, result.withheld) == (pytest.approx(means[0]), pytest.approx(means[1]))
    assert result.incremental.value == pytest.approx(means[0] - means[1], abs=1e-9)
    assert result.incremental.low <= result.incremental.value <= result.incremental.high
    # A constant for everybody, or a covariate that is one, adds nothing.
    shifted = contrast(Assignment(user, is_shown, withhold), outcome + 50, np.full((len(rows), 1), 0.1))
    assert shifted.incremental.value == pytest.approx(result.incremental.value, abs=1e-6)
    assert shifted.incremental.se == pytest.approx(result.incremental.se, abs=1e-6)


def draw(rng: np.random.Generator, added: float = 0.0) -> tuple[Assignment, np.ndarray, np.ndarray]:
    """Checkouts of 150 users, who differ in how often they come, in what they spend and in their coin."""
    user = np.repeat(np.arange(150), 1 + rng.poisson(3, 150))
    taste = rng.gamma(1.0, 1.0, 150)[user]
    withhold = np.where(user % 2 == 0, 0.2, 0.4)
    is_shown = rng.random(len(user)) >= withhold
    outcome = 10 * taste + (user % 2) * 5 + rng.normal(0, 3, len(user)) + added * is_shown * (1 + taste)
    return Assignment(user, is_shown, withhold), outcome, taste[:, None] + rng.normal(0, 0.2, (len(user), 1))


def test_intervals_are_those_of_repeated_coins() -> None:
    """Users spend alike at all of their checkouts, and the coin's bias goes with what they spend."""
    rng = np.random.default_rng(0)
    added, results = 2.0, {False: [], True: []}
    for _ in range(300):
        assignment, outcome, covariates = draw(rng, added)
        for adjusted in results:
            result = contrast(assignment, outcome, covariates if adjusted else None)
            results[adjusted].append(result.incremental)
    truth = 2 * added  # the mean of 1 + taste is 2
    for estimates in results.values():
        values = np.array([estimate.value for estimate in estimates])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(300))
        assert np.mean([estimate.se for estimate in estimates]) == pytest.approx(values.std(), rel=0.1)
        inside = sum(estimate.low < truth < estimate.high for estimate in estimates)
        assert 1e-4 < binom.cdf(inside, 300, 0.95) < 1 - 1e-4
    ratio = np.mean([b.se / a.se for a, b in zip(results[False], results[True], strict=True)])
    assert ratio < 0.6, "covariates narrow the interval"


def test_checkouts_of_one_user_are_one_cluster() -> None:
    """Every checkout three times over tells nothing new: the interval stays as it was."""
    assignment, outcome, _ = draw(np.random.default_rng(1))
    repeated = Assignment(*(np.tile(column, 3) for column in assignment))
    once, thrice = (
        contrast(assignment, outcome).incremental,
        contrast(repeated, np.tile(outcome, 3)).incremental,
    )
    assert (thrice.value, thrice.se) == (pytest.approx(once.value), pytest.approx(once.se, rel=0.02))


def test_the_incremental_share_of_credit() -> None:
    """By hand: shown slates earn 4, withheld ones 3; a click credits 2, half of which is incremental."""
    n = 400
    is_shown = np.arange(n) % 4 != 0
    assignment = Assignment(np.arange(n), is_shown, np.full(n, 0.25))
    noise = np.resize([1.0, 1, 1, 1, -1, -1, -1, -1], n)
    outcome, attributed = np.where(is_shown, 4.0, 3.0) + noise, 2.0 * is_shown
    result = contrast(assignment, outcome)
    share = incremental_share(assignment, result, attributed)
    assert (result.incremental.value, share.value) == (pytest.approx(1), pytest.approx(0.5))
    assert share.se == pytest.approx(result.incremental.se / 2)
    assert math.isnan(incremental_share(assignment, result, 0 * attributed).value)


def test_missing_ghosts_are_a_sample_ratio_mismatch() -> None:
    rng = np.random.default_rng(2)
    is_shown = rng.random(5000) >= 0.1
    assignment = Assignment(np.arange(5000), is_shown, np.full(5000, 0.1))
    assert withheld_ratio_p_value(assignment) > 0.01
    kept = is_shown | (rng.random(5000) < 0.8)
    assert withheld_ratio_p_value(Assignment(*(column[kept] for column in assignment))) < 1e-4


def test_no_spread_is_no_interval() -> None:
    assignment = Assignment(np.arange(8), np.arange(8) % 2 == 0, np.full(8, 0.5))
    mean, terms = hajek_mean(assignment, np.ones(8), shown=True)
    estimate = clustered_estimate(assignment, mean, terms)
    assert (estimate.value, estimate.low, estimate.high) == (1, 1, 1)
    assert math.isnan(estimate.p)
