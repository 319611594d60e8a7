"""How often 95 % intervals hold the truth: every estimator on many simulated logs.

    python -m experimentation.off_policy check [--logs 300]

One catalog, other people in every log. The truth is the new policy's expected reward over the checkouts of
all the logs. `assumes` says whether what an estimator assumes holds for these shoppers: its coverage is then
due to be 95 %, and with 300 logs to be 93 to 97 % four times in five. Writes reports/bench_off_policy.json.
"""

from typing import Any, NamedTuple

import numpy as np
from tqdm import trange

from experimentation.off_policy import importance_weights, plackett_luce, simulated_logs
from experimentation.off_policy.estimators import (
    clustered_mean,
    doubly_robust,
    ips,
    snips,
    weight_diagnostics,
)
from experimentation.off_policy.simulated_logs import (
    EXAMINATION_PROBABILITY,
    REWARDS,
    SHOPPER_MODELS,
    SLOTS,
    SimulatedCheckouts,
    SimulatedLog,
)

Array = np.ndarray
Row = dict[str, Any]
VALID_SHOPPERS = {  # of which shoppers the weights' assumption is true
    "position": ("alone",),
    "slot": ("alone",),
    "cascade": ("alone", "stopping"),
    "slate": ("alone", "stopping"),
}
WEIGHTED_ESTIMATORS, REWARD_MODELS = ("ips", "snips"), ("linear", "constant")
LOG_MEAN = ("the log's own mean", "", "")


class SlotProbabilities(NamedTuple):
    """Chance of every item at every slot: [n, K, I]."""

    target: Array
    logging: Array


def weights_by_shopper_model(
    at: SimulatedCheckouts, chance: SlotProbabilities, log: SimulatedLog
) -> dict[str, Array]:
    """The weights [n, K] of a log under every model of the shopper."""
    anywhere = (np.einsum("k,nki->ni", EXAMINATION_PROBABILITY, every) for every in chance)
    above = [
        plackett_luce.conditional_probabilities(score, log.slate)
        for score in (at.target_score, at.logging_score)
    ]
    here = (np.take_along_axis(every, log.slate[:, :, None], 2)[:, :, 0] for every in chance)
    return {
        "position": importance_weights.importance_ratio(
            *(np.take_along_axis(every, log.slate, 1) for every in anywhere)
        ),
        "slot": importance_weights.importance_ratio(*here),
        "cascade": importance_weights.cascade_weights(*above),
        "slate": importance_weights.slate_weights(*above),
    }


def predict_rewards(at: SimulatedCheckouts, log: SimulatedLog, reward: Array, kind: str) -> Array:
    """What is expected of every item if seen, fitted to the log: [n, I].

    linear: least squares on the facts, nearly right; constant: one number, wrong.
    """
    facts = at.features if kind == "linear" else at.features[:, :, :1]
    shown = (
        np.take_along_axis(facts, log.slate[:, :, None], 1) * EXAMINATION_PROBABILITY[:, None]
    )  # [n, K, F]
    fitted = np.linalg.lstsq(shown.reshape(-1, facts.shape[2]), reward.ravel(), rcond=None)[0]
    return facts @ fitted


def estimator_terms(
    at: SimulatedCheckouts,
    chance: SlotProbabilities,
    log: SimulatedLog,
    found: dict[str, Array],
    reward: Array,
) -> dict[tuple[str, str, str], Array]:
    """(estimator, shopper model, reward model) → its terms [n]. `found` are the weights, `reward` [n, K]."""
    made = {LOG_MEAN: reward.sum(1)}
    for shopper, weight in found.items():
        made["ips", shopper, ""] = ips(reward, weight)
        made["snips", shopper, ""] = snips(reward, weight, EXAMINATION_PROBABILITY)
    for kind in REWARD_MODELS:
        predicted = predict_rewards(at, log, reward, kind)
        direct = np.einsum("k,nki,ni->n", EXAMINATION_PROBABILITY, chance.target, predicted, optimize=True)
        shown = EXAMINATION_PROBABILITY * np.take_along_axis(predicted, log.slate, 1)
        made["direct", "", kind] = direct
        for shopper in ("position", "slot"):
            made["doubly robust", shopper, kind] = doubly_robust(reward, found[shopper], shown, direct)
    return made


def measure_coverage(n_logs: int, seed: int = 0, n_users: int = simulated_logs.N_USERS) -> list[Row]:
    """A row for each kind of shopper, reward and estimator; shows progress."""
    drawn: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
    true: dict[tuple[str, str], list[float]] = {}
    effective: dict[tuple[str, str], list[float]] = {}
    for number in trange(n_logs, desc="simulated logs", unit="log"):
        rng = np.random.default_rng([seed, number])
        at = simulated_logs.simulate_checkouts(rng, n_users)
        chance = SlotProbabilities(
            *(plackett_luce.slot_probabilities(score, SLOTS) for score in (at.target_score, at.logging_score))
        )
        for shopper in SHOPPER_MODELS:
            log = simulated_logs.simulate_log(at, shopper, rng)
            found = weights_by_shopper_model(at, chance, log)
            for name, weight in found.items():
                effective.setdefault((shopper, name), []).append(
                    weight_diagnostics(weight, EXAMINATION_PROBABILITY, at.user).effective_sample_size
                )
            for name, values in simulated_logs.true_rewards(at, shopper, at.target_score, rng).items():
                true.setdefault((shopper, name), []).append(float(values.mean()))
            for name in REWARDS:
                for key, parts in estimator_terms(at, chance, log, found, log.rewards[name]).items():
                    one = clustered_mean(parts, at.user)
                    drawn.setdefault((shopper, name, *key), []).append((one.value, one.low, one.high))
    rows = []
    for (shopper, reward, estimator, model, kind), some in drawn.items():
        truth = float(np.mean(true[shopper, reward]))
        value, low, high = np.array(some).T
        unbiased = estimator in (*WEIGHTED_ESTIMATORS, "doubly robust")
        rows.append(
            {
                "shoppers": shopper,
                "reward": reward,
                "estimator": estimator,
                "weights": model,
                "reward_model": kind,
                "assumes": "holds" if unbiased and shopper in VALID_SHOPPERS[model] else "fails",
                "truth": truth,
                "bias": float(value.mean()) / truth - 1,
                "sd": float(value.std(ddof=1)) / truth,
                "coverage": float(((low <= truth) & (truth <= high)).mean()),
                "effective": float(np.mean(effective[shopper, model])) if model else None,
            }
        )
    return rows
