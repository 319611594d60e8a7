"""Incremental revenue per slate: shown minus withheld checkouts, weighted by their probabilities.

Each checkout's slate is withheld with a known probability w, and the items it would have shown are logged
(ghost ads, Johnson, Lewis and Nubbemeyer 2017). The groups differ in nothing else, so

    Σ_shown y/(1-w) / Σ_shown 1/(1-w)  -  Σ_withheld y/w / Σ_withheld 1/w

estimates the increment of a slate (Hájek 1971). A regression subtracts the effect of covariates that are
known before the draw. This narrows the interval, and the added bias is only of order 1/n (Lin 2013, Agnostic
notes on regression adjustments). The regression weights each checkout by the square of its inverse
probability, because the few withheld checkouts cause most of the variance. Checkouts of one user are a
cluster: their terms are summed, then the sums are squared. Each term is divided by 1 - leverage, because a
checkout with large covariates pulls the regression towards its outcome (HC3, MacKinnon and White 1985).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import norm

CONFIDENCE_LEVEL = 0.95
MIN_CHECKOUTS = 30  # shown, and withheld, below which nothing is estimated
MIN_RESIDUAL_SHARE = 0.1  # 1 - leverage, at least: a term of leverage 1 is 0


class Assignment(NamedTuple):
    """Whether the slate of each of n checkouts was withheld, and with which probability."""

    user_row: NDArray  # [n] int64, the cluster
    is_shown: NDArray  # [n] bool
    withhold: NDArray  # [n] float64, probability of being withheld, between 0 and 1

    @property
    def weight(self) -> NDArray:
        """Inverse probability of each checkout's group: [n]."""
        return 1 / np.where(self.is_shown, 1 - self.withhold, self.withhold)


class Estimate(NamedTuple):
    """A value with its standard error and its interval of CONFIDENCE_LEVEL."""

    value: float
    se: float
    low: float
    high: float
    p: float  # two-sided, of 0

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


class Contrast(NamedTuple):
    """Means per checkout of shown and of withheld slates, and their difference."""

    shown: float
    withheld: float
    incremental: Estimate
    terms: NDArray  # [n], whose spread over users is that of the difference


def contrast(assignment: Assignment, outcome: NDArray, covariates: NDArray | None = None) -> Contrast:
    """Return the mean outcome of shown and of withheld checkouts, and the difference.

    `outcome` is [n]. `covariates` [n, k] are values that are known before the draw.
    """
    if covariates is None:
        covariates = np.zeros((len(outcome), 0))
    explained, leverage = _regress(assignment, outcome, covariates)
    shown, shown_terms = hajek_mean(assignment, outcome - explained, shown=True)
    withheld, withheld_terms = hajek_mean(assignment, outcome - explained, shown=False)
    terms = (shown_terms - withheld_terms) / np.maximum(1 - leverage, MIN_RESIDUAL_SHARE)
    return Contrast(shown, withheld, clustered_estimate(assignment, shown - withheld, terms), terms)


def hajek_mean(assignment: Assignment, outcome: NDArray, shown: bool) -> tuple[float, NDArray]:
    """Estimate the mean of an outcome [n] if all slates were shown, or if all were withheld.

    Returns the mean and its linearized terms [n].
    """
    weight = assignment.weight * (assignment.is_shown == shown)
    total = weight.sum()
    mean = float(weight @ outcome / total)
    return mean, weight * (outcome - mean) * (len(outcome) / total)


def clustered_estimate(assignment: Assignment, value: float, terms: NDArray) -> Estimate:
    """Return a value with the interval that follows from its terms [n].

    The degrees of freedom are the number of users in the smaller group, minus 1.
    """
    sums = np.bincount(assignment.user_row, terms)
    users = len(np.unique(assignment.user_row))
    se = math.sqrt((sums @ sums) * users / max(1, users - 1)) / len(terms)
    degrees = max(1, min(_n_users(assignment, shown) for shown in (True, False)) - 1)
    half_width = float(stdtrit(degrees, 0.5 + CONFIDENCE_LEVEL / 2)) * se
    p = 2 * float(stdtr(degrees, -abs(value) / se)) if se > 0 else math.nan
    return Estimate(value, se, value - half_width, value + half_width, p)


def incremental_share(assignment: Assignment, incremental: Contrast, attributed: NDArray) -> Estimate:
    """Estimate incremental revenue / attributed revenue by the delta method; NaN if nothing is attributed.

    `attributed` [n] is each checkout's attributed revenue.

    1 - share of the attributed revenue would have been earned without the slot. A share above 1 means that
    the slot adds purchases without a click.
    """
    credit, credit_terms = hajek_mean(assignment, attributed, shown=True)
    if not credit > 0:
        return Estimate(*[math.nan] * 5)
    share = incremental.incremental.value / credit
    return clustered_estimate(assignment, share, (incremental.terms - share * credit_terms) / credit)


def withheld_ratio_p_value(assignment: Assignment) -> float:
    """Return the p-value of the test for a sample ratio mismatch.

    The test compares the number of withheld checkouts with its expectation.
    """
    withheld = (~assignment.is_shown).sum()
    variance = (assignment.withhold * (1 - assignment.withhold)).sum()
    return float(2 * norm.sf(abs(withheld - assignment.withhold.sum()) / math.sqrt(variance)))


def _regress(assignment: Assignment, outcome: NDArray, covariates: NDArray) -> tuple[NDArray, NDArray]:
    """Regress an outcome [n] on both groups and the covariates [n, k], by weighted least squares.

    Returns the part that the covariates explain, [n] with mean 0, and the leverage of each checkout: [n].
    """
    centred = covariates - covariates.mean(0)
    scale = centred.std(0)
    centred = centred / np.where(scale > 1e-9 * np.abs(covariates).max(0, initial=0), scale, np.inf)
    weight = assignment.weight  # least squares squares it
    design = np.column_stack([assignment.is_shown, ~assignment.is_shown, centred]) * weight[:, None]
    projection = design @ np.linalg.pinv(design.T @ design, hermitian=True)  # [n, 2 + k]
    coefficients = projection.T @ (outcome * weight)
    return centred @ coefficients[2:], (projection * design).sum(1)


def _n_users(assignment: Assignment, shown: bool) -> int:
    return len(np.unique(assignment.user_row[assignment.is_shown == shown]))
