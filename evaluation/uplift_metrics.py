"""Metrics of orders by increment: uplift curves, Qini coefficients and the ghost estimator.

A pair is an item of a slate that was shown or withheld; an item of a withheld slate is a ghost. The gain of a
pair is E[revenue | shown] - E[revenue | not shown]: an estimate, or the truth of a simulator.
"""

from typing import NamedTuple

import numpy as np

from evaluation.jagged import Array
from evaluation.metrics import PairedDifference


class RandomizedPairs(NamedTuple):
    """P pairs of slates that were shown or withheld at random."""

    shown: Array  # [P] bool; False for a ghost
    withhold: Array  # [P] chance with which the slate was to be held back, above 0 and below 1
    outcome: Array  # [P] revenue of the item inside the horizon, by any way
    predicted_shown: Array  # [P] expected outcome if shown at its position
    predicted_organic: Array  # [P] expected outcome if not shown


def inverse_propensity_gains(pairs: RandomizedPairs) -> Array:
    """Estimate the gain [P] as Y · T / (1 - w) - Y · (1 - T) / w (Horvitz and Thompson 1952)."""
    weight = np.where(pairs.shown, 1 / (1 - pairs.withhold), -1 / pairs.withhold)
    gains: Array = weight * pairs.outcome
    return gains


def doubly_robust_gains(pairs: RandomizedPairs) -> Array:
    """Estimate the gain [P]: predicted gain plus the weighted prediction error in the observed group.

    If `withhold` is right, the mean gain is unbiased for any predictions; better predictions reduce its
    variance (Robins, Rotnitzky and Zhao 1994; the pseudo-outcome of Kennedy 2023, section 4).
    """
    predicted = np.where(pairs.shown, pairs.predicted_shown, pairs.predicted_organic)
    errors = inverse_propensity_gains(pairs._replace(outcome=pairs.outcome - predicted))
    gains: Array = pairs.predicted_shown - pairs.predicted_organic + errors
    return gains


def uplift_curve(score: Array, gain: Array, points: int = 20) -> Array:
    """Return the mean gain per pair if only the share k / points with the highest scores is shown.

    The result is [points + 1]: k runs from 0 to `points`.
    """
    total = np.concatenate([[0.0], np.cumsum(gain[np.argsort(-score, kind="stable")])])
    cut = np.rint(np.arange(points + 1) / points * len(gain)).astype(np.int64)
    curve: Array = total[cut] / max(len(gain), 1)
    return curve


def area_under_uplift_curve(score: Array, gain: Array) -> float:
    """Return AUUC (Gutierrez and Gérardy 2017, section 4).

    It is the mean over k of the mean gain per pair if the best k pairs are shown.
    """
    total = np.cumsum(gain[np.argsort(-score, kind="stable")])
    return float(total.mean()) / len(gain) if len(gain) else float("nan")


def qini(score: Array, gain: Array) -> float:
    """Return the Qini coefficient: AUUC minus that of a random order, in gain per pair (Radcliffe 2007)."""
    return area_under_uplift_curve(score, gain) - float(gain.mean()) / 2 if len(gain) else float("nan")


def bootstrap_qini(
    score: Array, baseline: Array, gain: Array, users: Array, n_resamples: int = 200, seed: int = 0
) -> PairedDifference:
    """Return the Qini of `score` [P] minus that of `baseline` [P], with a 95 % interval over users.

    The bootstrap resamples users.
    """
    _, code = np.unique(users, return_inverse=True)
    n_users = int(code.max()) + 1
    orders = [np.argsort(-each, kind="stable") for each in (score, baseline)]
    rng = np.random.default_rng(seed)
    differences = []
    for _ in range(n_resamples):
        count = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)[code]
        areas = [_weighted_area(gain[order], count[order]) for order in orders]
        differences.append(areas[0] - areas[1])
    low, high = np.quantile(differences, [0.025, 0.975])
    return PairedDifference(qini(score, gain) - qini(baseline, gain), float(low), float(high))


def _weighted_area(gain: Array, count: Array) -> float:
    """Return the AUUC of pairs in the given order, each repeated `count` times."""
    total, n = np.cumsum(gain * count), count.sum()
    return float((total * count).sum()) / float(n) ** 2
