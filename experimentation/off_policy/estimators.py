"""Estimators of a policy's value from the log of another one: pure functions of numpy arrays.

A log has n sessions of K slots each (K = 1 for a plain bandit). Every estimator gives a term per session [n]:
their mean is the estimate, and their spread over users its standard error, so that a difference of two
estimates is the mean of a difference of terms. What the weights are: weights.py.

| estimator | a choice that the logging policy never makes counts as | unbiased if |
|---|---|---|
| ips | nothing: what is estimated is too low by it | there is none, and propensities are right |
| snips | what the choices that it does make earn | the same, for many sessions |
| direct | what the reward model says | the reward model is right |
| doubly_robust | what the reward model says | there is none and propensities are right, or the model is |
"""

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

Array = np.ndarray
CONFIDENCE_LEVEL = 0.95
MIN_EFFECTIVE_SESSIONS = (
    100  # effective sessions below which an interval built on the normal law means little
)
MAX_SESSION_SHARE = 0.05  # share of all weight that one session may carry
SUPPORT_TOLERANCE = 0.02  # share of the choices without support from which on it matters
MIN_USERS = 40  # users below which a variance over users is itself a guess


class IntervalEstimate(NamedTuple):
    value: float
    se: float
    low: float
    high: float


class WeightDiagnostics(NamedTuple):
    """What the weights are worth."""

    sessions: int
    users: int
    effective_sample_size: float  # sessions under the new policy that would say as much (Kish 1965)
    max_weight: float  # largest weight
    max_session_share: float  # of all weight, what the heaviest session carries
    support: IntervalEstimate  # share of what the new policy shows, as often as seen, that the log could show
    clipped_share: float  # share of the weight that clipping took away


def ips(reward: Array, weight: Array) -> Array:
    """Inverse propensity scoring (Horvitz and Thompson 1952) of rewards and weights [n, K]: [n]."""
    return (weight * reward).sum(1)


def snips(reward: Array, weight: Array, seen: Array) -> Array:
    """Self-normalized IPS (Swaminathan and Joachims 2015), linearized around the estimate: [n].

    Weights average 1 in expectation, over slots too; dividing by what they do average takes out most of their
    noise. Slots count as often as they are seen [K], for rewards do. NaN if all weights are 0.
    """
    got, mass = ips(reward, weight) * seen.sum(), weight @ seen
    if not mass.any():
        return np.full(len(reward), np.nan)
    value = got.sum() / mass.sum()
    return value + (got - value * mass) / mass.mean()  # the delta method


def doubly_robust(reward: Array, weight: Array, predicted: Array, direct: Array) -> Array:
    """The reward model's value, corrected where its errors were seen (Dudík, Langford and Li 2011): [n].

    Args:
        reward, weight: [n, K].
        predicted: [n, K] what the model says of what was shown; read where the weight is above 0.
        direct: [n] what it says of the new policy's slate, which is the direct method's term.
    """
    return direct + (weight * (reward - predicted)).sum(1)


def clustered_mean(terms: Array, user: Array) -> IntervalEstimate:
    """Mean of terms [n] with a 95 % interval that is robust to what the sessions of a user [n] share.

    The sandwich over users with its G / (G - 1), and Student's t with G - 1 degrees of freedom.
    """
    value = float(terms.mean())
    _, place = np.unique(user, return_inverse=True)
    by_user = np.bincount(place, terms - value)
    users = len(by_user)
    if users < 2:
        return IntervalEstimate(value, np.nan, np.nan, np.nan)
    se = float(np.sqrt(users / (users - 1) * (by_user**2).sum()) / len(terms))
    reach = float(stdtrit(users - 1, (1 + CONFIDENCE_LEVEL) / 2)) * se
    return IntervalEstimate(value, se, value - reach, value + reach)


def weight_diagnostics(
    weight: Array, seen: Array, user: Array, unclipped: Array | None = None
) -> WeightDiagnostics:
    """What weights [n, K] are worth to users [n]; slots count as often as they are seen [K].

    The mean weight estimates how much of the new policy has support: in expectation it is 1 if all has.
    """
    whole = weight if unclipped is None else unclipped
    mass, every = (part @ seen / seen.sum() for part in (weight, whole))
    some = mass.any()
    return WeightDiagnostics(
        sessions=len(weight),
        users=len(np.unique(user)),
        effective_sample_size=float(mass.sum() ** 2 / (mass**2).sum()) if some else 0.0,
        max_weight=float(weight.max(initial=0.0)),
        max_session_share=float(mass.max() / mass.sum()) if some else 0.0,
        support=clustered_mean(every, user),
        clipped_share=1 - float(mass.sum()) / float(every.sum()) if some else 0.0,
    )


def weight_warnings(found: WeightDiagnostics) -> list[str]:
    """What a reader must know before believing an estimate made with these weights."""
    said = []
    low, high = found.support.low, found.support.high
    if found.effective_sample_size < MIN_EFFECTIVE_SESSIONS:
        said.append(
            f"not enough data: {found.sessions:,} sessions are worth {found.effective_sample_size:,.0f} of the new policy"
        )
    if high < 1 - SUPPORT_TOLERANCE:
        said.append(
            f"no support for {1 - found.support.value:.0%} ({1 - high:.0%} to {1 - low:.0%}) of what the "
            "new policy shows: IPS counts it as nothing, SNIPS as the rest, DM and DR as predicted"
        )
    if low > 1 + SUPPORT_TOLERANCE:
        said.append(
            f"weights average {found.support.value:.2f} ({low:.2f} to {high:.2f}) where 1 is the most: the "
            "logged propensities are not those of the policy that made the log"
        )
    if found.max_session_share > MAX_SESSION_SHARE:
        said.append(f"one session carries {found.max_session_share:.0%} of all weight")
    if found.clipped_share > 0:
        said.append(f"clipping took {found.clipped_share:.1%} of the weight: estimates are as much too low")
    if found.users < MIN_USERS:
        said.append(f"only {found.users} users: intervals are too short")
    return said


def policy_verdict(
    difference: IntervalEstimate, found: WeightDiagnostics, is_lower_bound: bool = False
) -> str:
    """What a difference to the logged policy allows to say: better, worse, no support, or not enough data.

    Args:
        bound: the estimate counts what has no support as nothing, as IPS does. Rewards are not negative, so
            what is better even then is better.
    """
    if found.effective_sample_size < MIN_EFFECTIVE_SESSIONS:
        return "not enough data"
    if found.support.high < 1 - SUPPORT_TOLERANCE and not (is_lower_bound and difference.low > 0):
        return "no support"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not enough data"
