"""Estimators of a policy's value from the log of another policy: pure functions of numpy arrays.

A log has n sessions of K slots each (K = 1 for a plain bandit). Every estimator returns a term per session
[n]. The mean of the terms is the estimate, and the spread of the terms over users gives the standard error.
So the difference of two estimates is the mean of the difference of their terms. importance_weights.py
defines the weights.

A choice is unsupported if the logging policy never makes it.

| estimator | value of an unsupported choice | the estimate is unbiased if |
|---|---|---|
| ips | 0, so the estimate is too low | all choices are supported and propensities are right |
| snips | the mean of the supported choices | as for ips, and there are many sessions |
| direct | the reward model's prediction | the reward model is right |
| doubly_robust | the reward model's prediction | as for ips, or the reward model is right |
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

Array = np.ndarray
CONFIDENCE_LEVEL = 0.95
MIN_EFFECTIVE_SESSIONS = 100  # effective sample size below which normal intervals are unreliable
MAX_SESSION_SHARE = 0.05  # share of the total weight that one session may carry
SUPPORT_TOLERANCE = 0.02  # share of the target policy's choices that may lack support
MIN_USERS = 40  # users below which a variance over users is itself a guess
LOG_MEAN = "log mean"  # the logging policy's own mean reward, listed among the estimators


class IntervalEstimate(NamedTuple):
    value: float
    se: float
    low: float
    high: float


class WeightDiagnostics(NamedTuple):
    """Diagnostics of importance weights."""

    sessions: int
    users: int
    effective_sample_size: float  # sessions of the target policy with the same information (Kish 1965)
    max_weight: float
    max_session_share: float  # of the total weight, carried by the heaviest session
    support: (
        IntervalEstimate  # share of the target policy's examined choices that the logging policy makes too
    )
    clipped_share: float  # of the total weight, removed by clipping


def ips(reward: Array, weight: Array) -> Array:
    """Return the terms [n] of inverse propensity scoring (Horvitz and Thompson 1952).

    `reward` and `weight` are [n, K].
    """
    return (weight * reward).sum(1)


def snips(reward: Array, weight: Array, examination_probability: Array) -> Array:
    """Return the terms [n] of self-normalized IPS (Swaminathan and Joachims 2015).

    The terms are linearized around the estimate. The expected mean of the weights is 1; division by the
    actual mean removes most of the noise of the weights. A slot counts with its examination probability [K],
    as its reward does. NaN if all weights are 0.
    """
    total = ips(reward, weight) * examination_probability.sum()
    mass = weight @ examination_probability
    if not mass.any():
        return np.full(len(reward), np.nan)
    value = total.sum() / mass.sum()
    return value + (total - value * mass) / mass.mean()  # the delta method


def doubly_robust(reward: Array, weight: Array, predicted: Array, direct: Array) -> Array:
    """Return the terms [n] of the doubly robust estimator (Dudík, Langford and Li 2011).

    It is the direct method, corrected by the weighted errors of its model.

    Args:
        reward, weight: [n, K].
        predicted: [n, K] predicted rewards of the logged slates; read where the weight is above 0.
        direct: [n] predicted reward of the target policy's slate, the term of the direct method.
    """
    return direct + (weight * (reward - predicted)).sum(1)


def clustered_mean(terms: Array, user: Array) -> IntervalEstimate:
    """Return the mean of terms [n] with a 95 % interval clustered by user [n].

    The interval uses the sandwich estimator over G users with the factor G / (G - 1), and Student's t with G
    - 1 degrees of freedom.
    """
    value = float(terms.mean())
    _, user_codes = np.unique(user, return_inverse=True)
    by_user = np.bincount(user_codes, terms - value)
    users = len(by_user)
    if users < 2:
        return IntervalEstimate(value, np.nan, np.nan, np.nan)
    se = float(np.sqrt(users / (users - 1) * (by_user**2).sum()) / len(terms))
    half_width = float(stdtrit(users - 1, (1 + CONFIDENCE_LEVEL) / 2)) * se
    return IntervalEstimate(value, se, value - half_width, value + half_width)


def weight_diagnostics(
    weight: Array, examination_probability: Array, user: Array, unclipped: Array | None = None
) -> WeightDiagnostics:
    """Return diagnostics of weights [n, K] of users [n].

    A slot counts with its examination probability [K]. The mean weight estimates the supported share of the
    target policy's choices. If all choices are supported, its expectation is 1.
    """
    unclipped = weight if unclipped is None else unclipped
    mass, unclipped_mass = (
        weights @ examination_probability / examination_probability.sum() for weights in (weight, unclipped)
    )
    has_mass = mass.any()
    return WeightDiagnostics(
        sessions=len(weight),
        users=len(np.unique(user)),
        effective_sample_size=float(mass.sum() ** 2 / (mass**2).sum()) if has_mass else 0.0,
        max_weight=float(weight.max(initial=0.0)),
        max_session_share=float(mass.max() / mass.sum()) if has_mass else 0.0,
        support=clustered_mean(unclipped_mass, user),
        clipped_share=1 - float(mass.sum()) / float(unclipped_mass.sum()) if has_mass else 0.0,
    )


def weight_warnings(diagnostics: WeightDiagnostics) -> list[str]:
    """Warnings about estimates made with these weights."""
    warnings = []
    support = diagnostics.support
    if diagnostics.effective_sample_size < MIN_EFFECTIVE_SESSIONS:
        warnings.append(
            f"not enough data: {diagnostics.sessions:,} sessions have an effective sample size of "
            f"{diagnostics.effective_sample_size:,.0f}; {MIN_EFFECTIVE_SESSIONS:,} are needed"
        )
    if support.high < 1 - SUPPORT_TOLERANCE:
        warnings.append(
            f"no support for {1 - support.value:.0%} ({1 - support.high:.0%} to {1 - support.low:.0%}) of "
            "the target policy's choices: IPS counts them as 0, SNIPS as the mean, direct and doubly robust "
            "as predicted"
        )
    if support.low > 1 + SUPPORT_TOLERANCE:
        warnings.append(
            f"the mean weight is {support.value:.2f} ({support.low:.2f} to {support.high:.2f}), but 1 is the "
            "maximum: the logged propensities are not those of the logging policy"
        )
    if diagnostics.max_session_share > MAX_SESSION_SHARE:
        warnings.append(f"one session carries {diagnostics.max_session_share:.0%} of the total weight")
    if diagnostics.clipped_share > 0:
        warnings.append(
            f"clipping removes {diagnostics.clipped_share:.1%} of the weight: estimates are too low by about "
            "this share"
        )
    if diagnostics.users < MIN_USERS:
        warnings.append(f"only {diagnostics.users} users: intervals are too narrow")
    return warnings


def policy_verdict(
    difference: IntervalEstimate, diagnostics: WeightDiagnostics, is_lower_bound: bool = False
) -> str:
    """Return the verdict on a difference to the logging policy.

    It is better, worse, no support, or not enough data. `is_lower_bound` tells whether the estimate counts
    unsupported choices as 0, as IPS does. Rewards are not negative, so such an estimate is a lower bound: if
    the bound is better, the policy is better.
    """
    if diagnostics.effective_sample_size < MIN_EFFECTIVE_SESSIONS:
        return "not enough data"
    if diagnostics.support.high < 1 - SUPPORT_TOLERANCE and not (is_lower_bound and difference.low > 0):
        return "no support"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not enough data"
