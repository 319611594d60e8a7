"""A new bundle's slates against a log: a row for every reward and estimator."""

from typing import Any, NamedTuple

import numpy as np

from experimentation.off_policy import importance_weights
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
from experimentation.off_policy.logged_checkouts import REWARDS, LoggedCheckouts
from experimentation.off_policy.replay import ReplayedSlates

Array = np.ndarray
Row = dict[str, Any]
MIN_SLOT_CLICKS = 20  # at a slot, from which on it can be said how often it is seen
LOG_MEAN = "logged"  # the log's own mean
PRIMARY_ESTIMATOR = (
    "doubly robust",
    "position",
)  # the estimator that the verdict is of, named before any is seen
EXAMINATION_HINT = "give it with --seen 1,0.6,…: p(seen | slot) of every slot, the first is 1"


class PolicyEvaluation(NamedTuple):
    estimates: list[Row]
    health: dict[str, WeightDiagnostics]  # by shopper model
    warnings: dict[str, list[str]]  # the same
    examination_probability: Array  # [K]


def estimate_examination_probability(logged: LoggedCheckouts) -> Array:
    """p(seen | slot) [K], the first slot's being 1: clicks over what p(click | seen) expected, slot by slot.

    Raises ValueError where predictions are missing, or a slot has too few clicks to say.
    """
    known = np.isfinite(logged.p_click)
    clicks = (logged.rewards["click"] * known).sum(0)
    if (clicks < MIN_SLOT_CLICKS).any():
        slots = ", ".join(f"{count:.0f}" for count in clicks)
        raise ValueError(
            f"{slots} clicks with a logged p_click, by slot: expected {MIN_SLOT_CLICKS} each; {EXAMINATION_HINT}"
        )
    relative = clicks / np.where(known, logged.p_click, 0.0).sum(0)
    return relative / relative[0]


def weights_by_shopper_model(logged: LoggedCheckouts, new: ReplayedSlates, seen: Array) -> dict[str, Array]:
    """Weights [n, K] of what was shown for a bundle that shows `new` for certain, by shopper model."""
    same = logged.item[:, :, None] == new.item[:, None, :]  # [n, K, K]
    here = np.diagonal(same, axis1=1, axis2=2).astype(np.float64)
    chance = logged.propensity
    return {
        # Where only the last slot is drawn, an item has one slot at which it can be.
        "position": importance_weights.importance_ratio(same @ seen, seen * chance),
        "slot": importance_weights.importance_ratio(here, chance),
        "cascade": importance_weights.cascade_weights(here, chance),
        "slate": importance_weights.slate_weights(here, chance),
    }


def evaluate_policy(
    logged: LoggedCheckouts, new: ReplayedSlates, seen: Array, max_weight: float | None = None
) -> PolicyEvaluation:
    """Estimates of the bundle and their differences to what was logged, clustered by user.

    Args:
        seen: [K] p(seen | slot).
        clip: the largest weight; None for as they are.
    """
    whole = weights_by_shopper_model(logged, new, seen)
    weight = {name: importance_weights.clip_weights(found, max_weight) for name, found in whole.items()}
    states = {name: weight_diagnostics(weight[name], seen, logged.user, whole[name]) for name in weight}
    rows = []
    for reward in REWARDS:
        got = logged.rewards[reward]
        for (estimator, shopper), terms in _terms(logged, new, seen, weight, reward).items():
            one, more = clustered_mean(terms, logged.user), clustered_mean(terms - got.sum(1), logged.user)
            rows.append(
                {
                    "reward": reward,
                    "estimator": estimator,
                    "weights": shopper,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "difference": more.value,
                    "from": more.low,
                    "to": more.high,
                    "verdict": policy_verdict(more, states[shopper], estimator == "ips") if shopper else "",
                }
            )
    return PolicyEvaluation(
        rows, states, {name: weight_warnings(state) for name, state in states.items()}, seen
    )


def _terms(
    logged: LoggedCheckouts, new: ReplayedSlates, seen: Array, weight: dict[str, Array], name: str
) -> dict[tuple[str, str], Array]:
    """(estimator, shopper model) → terms [n] of a reward."""
    got = logged.rewards[name]
    usual = got.sum() / (len(got) * seen.sum())  # where the bundle predicts nothing
    if_seen = np.where(np.isfinite(new.predictions[name]), new.predictions[name], usual)  # [n, K]
    if_seen = if_seen * new.item.astype(bool)  # an empty slot earns nothing
    direct = if_seen @ seen
    same = logged.item[:, :, None] == new.item[:, None, :]
    predicted = seen * (same * if_seen[:, None, :]).sum(2)
    terms = {(LOG_MEAN, ""): got.sum(1), ("direct", ""): direct}
    for shopper, found in weight.items():
        terms["ips", shopper] = ips(got, found)
        terms["snips", shopper] = snips(got, found, seen)
        if shopper in ("position", "slot"):  # a slot's prediction does not depend on those above
            terms["doubly robust", shopper] = doubly_robust(got, found, predicted, direct)
    return terms


def verdict_lines(judged: PolicyEvaluation) -> list[str]:
    """What the estimator that decides says, a line per reward."""
    said = []
    for row in judged.estimates:
        if (row["estimator"], row["weights"]) == PRIMARY_ESTIMATOR:
            was, by = row["value"] - row["difference"], "{difference:+.4f} ({from:+.4f} to {to:+.4f})"
            said.append(f"{row['reward']} per checkout: {row['verdict']}, {by.format(**row)} on {was:.4f}")
    return said
