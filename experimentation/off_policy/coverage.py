"""Coverage of 95 % intervals: every estimator on many simulated logs.

    python -m experimentation.off_policy coverage [--logs 300]

All logs share a catalog, but each log has different users. The truth is the target policy's expected reward
over the checkouts of all logs. The column `assumption` tells whether an estimator's assumption holds for the
simulated shoppers. If the assumption holds, the expected coverage is 95 %; with 300 logs the measured
coverage lies between 93 and 97 % four times in five. Writes reports/bench_off_policy.json.
"""

from typing import Any, NamedTuple

import numpy as np
from tqdm import trange

from experimentation.off_policy import importance_weights, plackett_luce, simulated_logs
from experimentation.off_policy.estimators import (
    LOG_MEAN,
    clustered_mean,
    doubly_robust,
    ips,
    snips,
    weight_diagnostics,
)
from experimentation.off_policy.importance_weights import PolicyProbabilities
from experimentation.off_policy.simulated_logs import (
    EXAMINATION_PROBABILITY,
    REWARDS,
    SIMULATED_SHOPPERS,
    SLOTS,
    SimulatedCheckouts,
    SimulatedLog,
)

Array = np.ndarray
Row = dict[str, Any]
VALID_SHOPPERS = {  # shopper model of the weights → simulated shoppers for whom it is true
    "position": ("independent",),
    "slot": ("independent",),
    "cascade": ("independent", "cascade"),
    "slate": ("independent", "cascade"),
}
WEIGHTED_ESTIMATORS, REWARD_MODELS = ("ips", "snips"), ("linear", "constant")


class EstimatorKey(NamedTuple):
    """An estimator with the models that it uses."""

    estimator: str
    shopper_model: str = ""
    reward_model: str = ""


def weights_by_shopper_model(
    checkouts: SimulatedCheckouts, at_slots: PolicyProbabilities, log: SimulatedLog
) -> dict[str, Array]:
    """Return shopper model → weights [n, K] of a log's slots.

    The probabilities `at_slots` are [n, K, I]: of every item at every slot.
    """
    examined = (np.einsum("k,nki->ni", EXAMINATION_PROBABILITY, part) for part in at_slots)
    scores = checkouts.target_score, checkouts.logging_score
    given_above = (plackett_luce.conditional_probabilities(score, log.slate) for score in scores)
    at_slot = (np.take_along_axis(part, log.slate[:, :, None], 2)[:, :, 0] for part in at_slots)
    return importance_weights.weights_by_shopper_model(
        examined=PolicyProbabilities(*(np.take_along_axis(part, log.slate, 1) for part in examined)),
        at_slot=PolicyProbabilities(*at_slot),
        given_above=PolicyProbabilities(*given_above),
    )


def predict_rewards(
    checkouts: SimulatedCheckouts, log: SimulatedLog, reward: Array, reward_model: str
) -> Array:
    """Return the expected reward [n, I] of every examined item, by a model fitted to the log.

    `linear` is least squares on the features and nearly right. `constant` is one number and wrong.
    """
    features = checkouts.features if reward_model == "linear" else checkouts.features[:, :, :1]
    slate_features = np.take_along_axis(features, log.slate[:, :, None], 1)
    examined = slate_features * EXAMINATION_PROBABILITY[:, None]  # [n, K, F]
    coefficients = np.linalg.lstsq(examined.reshape(-1, features.shape[2]), reward.ravel(), rcond=None)[0]
    return features @ coefficients


def estimator_terms(
    checkouts: SimulatedCheckouts,
    at_slots: PolicyProbabilities,
    log: SimulatedLog,
    weights: dict[str, Array],
    reward: Array,
) -> dict[EstimatorKey, Array]:
    """Return each estimator's terms [n] for one reward [n, K].

    `weights` maps a shopper model to its weights [n, K].
    """
    terms = {EstimatorKey(LOG_MEAN): reward.sum(1)}
    for model, weight in weights.items():
        terms[EstimatorKey("ips", model)] = ips(reward, weight)
        terms[EstimatorKey("snips", model)] = snips(reward, weight, EXAMINATION_PROBABILITY)
    for reward_model in REWARD_MODELS:
        predicted = predict_rewards(checkouts, log, reward, reward_model)
        direct = np.einsum("k,nki,ni->n", EXAMINATION_PROBABILITY, at_slots.target, predicted, optimize=True)
        slate_predicted = EXAMINATION_PROBABILITY * np.take_along_axis(predicted, log.slate, 1)
        terms[EstimatorKey("direct", reward_model=reward_model)] = direct
        for model in ("position", "slot"):
            terms[EstimatorKey("doubly robust", model, reward_model)] = doubly_robust(
                reward, weights[model], slate_predicted, direct
            )
    return terms


def measure_coverage(n_logs: int, seed: int = 0, n_users: int = simulated_logs.N_USERS) -> list[Row]:
    """Return a row for each kind of shopper, reward and estimator; shows progress."""
    intervals: dict[tuple[str, str, EstimatorKey], list[tuple[float, float, float]]] = {}
    truths: dict[tuple[str, str], list[float]] = {}
    sample_sizes: dict[tuple[str, str], list[float]] = {}
    for number in trange(n_logs, desc="simulated logs", unit="log"):
        rng = np.random.default_rng([seed, number])
        checkouts = simulated_logs.simulate_checkouts(rng, n_users)
        scores = checkouts.target_score, checkouts.logging_score
        at_slots = PolicyProbabilities(*(plackett_luce.slot_probabilities(score, SLOTS) for score in scores))
        for shopper in SIMULATED_SHOPPERS:
            log = simulated_logs.simulate_log(checkouts, shopper, rng)
            weights = weights_by_shopper_model(checkouts, at_slots, log)
            for model, weight in weights.items():
                diagnostics = weight_diagnostics(weight, EXAMINATION_PROBABILITY, checkouts.user)
                sample_sizes.setdefault((shopper, model), []).append(diagnostics.effective_sample_size)
            rewards = simulated_logs.true_rewards(checkouts, shopper, checkouts.target_score, rng)
            for name, values in rewards.items():
                truths.setdefault((shopper, name), []).append(float(values.mean()))
            for name in REWARDS:
                terms_by_key = estimator_terms(checkouts, at_slots, log, weights, log.rewards[name])
                for key, terms in terms_by_key.items():
                    estimate = clustered_mean(terms, checkouts.user)
                    intervals.setdefault((shopper, name, key), []).append(
                        (estimate.value, estimate.low, estimate.high)
                    )
    rows = []
    for (shopper, name, key), estimates in intervals.items():
        truth = float(np.mean(truths[shopper, name]))
        sizes = sample_sizes[shopper, key.shopper_model] if key.shopper_model else None
        rows.append(_coverage_row(shopper, name, key, truth, np.array(estimates)) | {
            "effective_sample_size": float(np.mean(sizes)) if sizes else None
        })  # fmt: skip
    return rows


def _coverage_row(shopper: str, reward: str, key: EstimatorKey, truth: float, estimates: Array) -> Row:
    """The report row of one estimator.

    `estimates` [logs, 3] holds the value, the lower bound and the upper bound for each simulated log.
    """
    value, low, high = estimates.T
    is_unbiased = key.estimator in (*WEIGHTED_ESTIMATORS, "doubly robust")
    holds = is_unbiased and shopper in VALID_SHOPPERS[key.shopper_model]
    return {
        "shoppers": shopper,
        "reward": reward,
        **key._asdict(),
        "assumption": "holds" if holds else "violated",
        "truth": truth,
        "bias": float(value.mean()) / truth - 1,
        "sd": float(value.std(ddof=1)) / truth,
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
    }
