"""Evaluation of a new bundle on a log: a row for every reward and estimator."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experimentation.off_policy import importance_weights, incremental
from experimentation.off_policy.estimators import (
    LOG_MEAN,
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
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE
from experimentation.off_policy.logged_checkouts import REWARDS, LoggedCheckouts, select_checkouts
from experimentation.off_policy.replay import ReplayedSlates, select_replayed

Array = np.ndarray
Row = dict[str, Any]
MIN_SLOT_CLICKS = 20  # clicks at a slot that an estimate of its examination probability needs
PRIMARY_ESTIMATOR = ("doubly robust", "position")  # it gives the verdict; fixed in advance
EXAMINATION_HINT = "give them with --examination-probabilities 1,0.6,…: one for every slot, the first is 1"


class PolicyEvaluation(NamedTuple):
    estimates: list[Row]
    weight_diagnostics: dict[str, WeightDiagnostics]  # by shopper model
    warnings: dict[str, list[str]]  # by shopper model
    examination_probability: Array  # [K]


def estimate_examination_probability(logged: LoggedCheckouts) -> Array:
    """Estimate p(examined | slot) [K] as clicks / predicted clicks of shown slates; 1 for the first slot.

    Raises ValueError if predictions are missing, or a slot has fewer than MIN_SLOT_CLICKS clicks.
    """
    predicted = np.isfinite(logged.p_click) & ~logged.is_withheld[:, None]
    if not predicted.any():
        raise ValueError(
            "no impression has a logged p_click, because the bundle that answered predicts no clicks. "
            f"Examination probabilities cannot be estimated without p_click; {EXAMINATION_HINT}"
        )
    clicks = (logged.rewards["click"] * predicted).sum(0)
    if (clicks < MIN_SLOT_CLICKS).any():
        counts = ", ".join(f"{count:.0f}" for count in clicks)
        raise ValueError(
            f"too few clicks to estimate examination probabilities: {counts} in slots 1, 2, …; each slot "
            f"needs {MIN_SLOT_CLICKS}. Only impressions with a logged p_click count; {EXAMINATION_HINT}"
        )
    relative = clicks / np.where(predicted, logged.p_click, 0.0).sum(0)
    return relative / relative[0]


def weights_by_shopper_model(
    logged: LoggedCheckouts, replayed: ReplayedSlates, examination_probability: Array
) -> dict[str, Array]:
    """Return shopper model → weights [n, K] of the logged slots.

    The target policy always shows the slates `replayed`.
    """
    same_item = logged.item[:, :, None] == replayed.item[:, None, :]  # [n, K, K]
    same_slot = np.diagonal(same_item, axis1=1, axis2=2).astype(np.float64)
    at_slot = PolicyProbabilities(same_slot, logged.propensity)
    return importance_weights.weights_by_shopper_model(
        # Serving samples the last slot only, so a logged item has one slot where it can stand.
        examined=PolicyProbabilities(
            same_item @ examination_probability, examination_probability * logged.propensity
        ),
        at_slot=at_slot,
        given_above=at_slot,
    )


def evaluate_policy(
    logged: LoggedCheckouts,
    replayed: ReplayedSlates,
    examination_probability: Array,
    max_weight: float | None = None,
) -> PolicyEvaluation:
    """Return estimates of the bundle and of its difference to the log, clustered by user.

    Clicks, purchases and revenue are attributed to the slot and come from shown slates only. Incremental
    revenue is estimated from slates that could have been withheld, if there are any (incremental.py).

    `examination_probability` [K] is p(examined | slot). Weights are clipped at `max_weight`; None does not
    clip.
    """
    is_shown = ~logged.is_withheld
    evaluation = _evaluate_rewards(
        select_checkouts(logged, is_shown),
        select_replayed(replayed, is_shown),
        examination_probability,
        max_weight,
        REWARDS,
    )
    withholding = incremental.select_withholding(logged, replayed)
    if withholding is None:
        return evaluation
    logged, replayed = incremental.with_incremental_rewards(*withholding, examination_probability)
    rows = _evaluate_rewards(
        logged, replayed, examination_probability, max_weight, [INCREMENTAL_REVENUE]
    ).estimates
    return evaluation._replace(estimates=[*evaluation.estimates, *rows])


def _evaluate_rewards(
    logged: LoggedCheckouts,
    replayed: ReplayedSlates,
    examination_probability: Array,
    max_weight: float | None,
    rewards: Sequence[str],
) -> PolicyEvaluation:
    """Return the evaluation of `evaluate_policy` for `rewards` only."""
    unclipped = weights_by_shopper_model(logged, replayed, examination_probability)
    weights = {
        model: importance_weights.clip_weights(weight, max_weight) for model, weight in unclipped.items()
    }
    diagnostics = {
        model: weight_diagnostics(weight, examination_probability, logged.user, unclipped[model])
        for model, weight in weights.items()
    }
    rows = []
    for name in rewards:
        log_terms = logged.rewards[name].sum(1)
        terms_by_estimator = _terms_by_estimator(logged, replayed, examination_probability, weights, name)
        for (estimator, model), terms in terms_by_estimator.items():
            estimate = clustered_mean(terms, logged.user)
            difference = clustered_mean(terms - log_terms, logged.user)
            is_lower_bound = estimator == "ips" and name != INCREMENTAL_REVENUE  # which may be negative
            verdict = policy_verdict(difference, diagnostics[model], is_lower_bound) if model else ""
            rows.append(
                {
                    "reward": name,
                    "estimator": estimator,
                    "shopper_model": model,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "difference": difference.value,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "verdict": verdict,
                }
            )
    return PolicyEvaluation(
        estimates=rows,
        weight_diagnostics=diagnostics,
        warnings={model: weight_warnings(part) for model, part in diagnostics.items()},
        examination_probability=examination_probability,
    )


def _terms_by_estimator(
    logged: LoggedCheckouts,
    replayed: ReplayedSlates,
    examination_probability: Array,
    weights: dict[str, Array],
    name: str,
) -> dict[tuple[str, str], Array]:
    """Return (estimator, shopper model) → terms [n] of the reward `name`."""
    reward = logged.rewards[name]
    mean_reward = reward.sum() / (len(reward) * examination_probability.sum())  # where nothing is predicted
    predictions = replayed.predictions[name]
    if_examined = np.where(np.isfinite(predictions), predictions, mean_reward)  # [n, K]
    if_examined = if_examined * replayed.item.astype(bool)  # an empty slot earns nothing
    direct = if_examined @ examination_probability
    same_item = logged.item[:, :, None] == replayed.item[:, None, :]
    predicted = examination_probability * (same_item * if_examined[:, None, :]).sum(2)
    terms = {(LOG_MEAN, ""): reward.sum(1), ("direct", ""): direct}
    for model, weight in weights.items():
        terms["ips", model] = ips(reward, weight)
        terms["snips", model] = snips(reward, weight, examination_probability)
        if model in ("position", "slot"):  # a slot's prediction does not depend on the items above
            terms["doubly robust", model] = doubly_robust(reward, weight, predicted, direct)
    return terms


def verdict_lines(evaluation: PolicyEvaluation) -> list[str]:
    """Return the verdicts of the primary estimator as text, a line per reward."""
    lines = []
    for row in evaluation.estimates:
        if (row["estimator"], row["shopper_model"]) == PRIMARY_ESTIMATOR:
            log_mean = row["value"] - row["difference"]
            difference = "{difference:+.4f} ({difference_low:+.4f} to {difference_high:+.4f})".format(**row)
            lines.append(f"{row['reward']} per checkout: {row['verdict']}, {difference} on {log_mean:.4f}")
    return lines
