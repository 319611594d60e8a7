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
from experimentation.off_policy.estimators import doubly_robust, estimate, health, ips, snips
from experimentation.off_policy.simulated_logs import REWARDS, SEEN, SHOPPERS, SLOTS, Checkouts, Log

Array = np.ndarray
Row = dict[str, Any]
HOLDS = {  # of which shoppers the weights' assumption is true
    "position": ("alone",),
    "slot": ("alone",),
    "cascade": ("alone", "stopping"),
    "slate": ("alone", "stopping"),
}
WEIGHTED, MODELLED = ("ips", "snips"), ("linear", "constant")
NAIVE = ("the log's own mean", "", "")


class Chances(NamedTuple):
    """Chance of every item at every slot: [n, K, I]."""

    new: Array
    logged: Array


def weigh(at: Checkouts, chance: Chances, log: Log) -> dict[str, Array]:
    """The weights [n, K] of a log under every model of the shopper."""
    anywhere = (np.einsum("k,nki->ni", SEEN, every) for every in chance)
    above = [plackett_luce.given_above(score, log.slate) for score in (at.new, at.logging)]
    here = (np.take_along_axis(every, log.slate[:, :, None], 2)[:, :, 0] for every in chance)
    return {
        "position": importance_weights.ratio(
            *(np.take_along_axis(every, log.slate, 1) for every in anywhere)
        ),
        "slot": importance_weights.ratio(*here),
        "cascade": importance_weights.cascade(*above),
        "slate": importance_weights.slate(*above),
    }


def reward_model(at: Checkouts, log: Log, reward: Array, kind: str) -> Array:
    """What is expected of every item if seen, fitted to the log: [n, I].

    linear: least squares on the facts, nearly right; constant: one number, wrong.
    """
    facts = at.facts if kind == "linear" else at.facts[:, :, :1]
    shown = np.take_along_axis(facts, log.slate[:, :, None], 1) * SEEN[:, None]  # [n, K, F]
    fitted = np.linalg.lstsq(shown.reshape(-1, facts.shape[2]), reward.ravel(), rcond=None)[0]
    return facts @ fitted


def terms(
    at: Checkouts, chance: Chances, log: Log, found: dict[str, Array], reward: Array
) -> dict[tuple[str, str, str], Array]:
    """(estimator, shopper model, reward model) → its terms [n]. `found` are the weights, `reward` [n, K]."""
    made = {NAIVE: reward.sum(1)}
    for shopper, weight in found.items():
        made["ips", shopper, ""] = ips(reward, weight)
        made["snips", shopper, ""] = snips(reward, weight, SEEN)
    for kind in MODELLED:
        predicted = reward_model(at, log, reward, kind)
        direct = np.einsum("k,nki,ni->n", SEEN, chance.new, predicted, optimize=True)
        shown = SEEN * np.take_along_axis(predicted, log.slate, 1)
        made["direct", "", kind] = direct
        for shopper in ("position", "slot"):
            made["doubly robust", shopper, kind] = doubly_robust(reward, found[shopper], shown, direct)
    return made


def check(logs: int, seed: int = 0, users: int = simulated_logs.USERS) -> list[Row]:
    """A row for each kind of shopper, reward and estimator; shows progress."""
    drawn: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
    true: dict[tuple[str, str], list[float]] = {}
    effective: dict[tuple[str, str], list[float]] = {}
    for number in trange(logs, desc="simulated logs", unit="log"):
        rng = np.random.default_rng([seed, number])
        at = simulated_logs.checkouts(rng, users)
        chance = Chances(*(plackett_luce.at_slots(score, SLOTS) for score in (at.new, at.logging)))
        for shopper in SHOPPERS:
            log = simulated_logs.log(at, shopper, rng)
            found = weigh(at, chance, log)
            for name, weight in found.items():
                effective.setdefault((shopper, name), []).append(health(weight, SEEN, at.user).effective)
            for name, values in simulated_logs.value(at, shopper, at.new, rng).items():
                true.setdefault((shopper, name), []).append(float(values.mean()))
            for name in REWARDS:
                for key, parts in terms(at, chance, log, found, log.rewards[name]).items():
                    one = estimate(parts, at.user)
                    drawn.setdefault((shopper, name, *key), []).append((one.value, one.low, one.high))
    rows = []
    for (shopper, reward, estimator, model, kind), some in drawn.items():
        truth = float(np.mean(true[shopper, reward]))
        value, low, high = np.array(some).T
        unbiased = estimator in (*WEIGHTED, "doubly robust")
        rows.append(
            {
                "shoppers": shopper,
                "reward": reward,
                "estimator": estimator,
                "weights": model,
                "reward_model": kind,
                "assumes": "holds" if unbiased and shopper in HOLDS[model] else "fails",
                "truth": truth,
                "bias": float(value.mean()) / truth - 1,
                "sd": float(value.std(ddof=1)) / truth,
                "coverage": float(((low <= truth) & (truth <= high)).mean()),
                "effective": float(np.mean(effective[shopper, model])) if model else None,
            }
        )
    return rows
