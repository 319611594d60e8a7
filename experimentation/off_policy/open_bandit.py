"""Comparison of a random policy and BTS on the Open Bandit Dataset's sample (Saito et al., NeurIPS 2021).

    python -m experimentation.off_policy open-bandit

Each of three campaigns of a fashion shop has 10,000 impressions of a random policy and 10,000 of Bernoulli
Thompson sampling (BTS), from the same week; an impression is one of three slots. The value of each policy is
estimated from the log of the other policy, and compared with the mean reward in the policy's own log. The
sample consists of CSV files in the package `obp`, which is not imported.

BTS learns while it logs, so the probability of an item under BTS is known only for the impressions of BTS.
The estimate from the random log therefore treats BTS as one policy over the whole week: an item's probability
at a slot is its share of BTS's impressions at this slot. The sample contains no user ids, so impressions
count as independent.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.csv as csv

from experimentation.off_policy.estimators import (
    IntervalEstimate,
    clustered_mean,
    doubly_robust,
    ips,
    policy_verdict,
    snips,
    weight_diagnostics,
)
from experimentation.off_policy.importance_weights import importance_ratio

Array = np.ndarray
Row = dict[str, Any]
CAMPAIGNS = ("all", "men", "women")
POLICIES = ("random", "bts")
SLOTS = 3
PRIOR_IMPRESSIONS = 500  # impressions at which an item's own click rate weighs as much as the mean
SINGLE_SLOT = np.ones(1)  # examination probabilities of a session that is one impression
Z_95 = 1.96  # standard errors on each side of a 95 % interval


class BanditImpressions(NamedTuple):
    """n impressions of a policy."""

    item: Array  # [n] int64
    slot: Array  # [n] int64, from 0
    propensity: Array  # [n] probability of the item at the slot
    click: Array  # [n] float64


def folder() -> Path:
    """The folder of the sample. Raises ImportError if the package is not installed."""
    try:
        return Path(str(distribution("obp").locate_file("obp/dataset/obd")))
    except PackageNotFoundError as error:
        raise ImportError(
            "the Open Bandit sample is missing. To do: pip install --no-deps obp==0.4.1"
        ) from error


def read_impressions(policy: str, campaign: str) -> BanditImpressions:
    """Return the log of a policy in a campaign."""
    table = csv.read_csv(folder() / policy / campaign / f"{campaign}.csv")
    item, slot, propensity, click = (
        table[name].to_numpy() for name in ("item_id", "position", "propensity_score", "click")
    )
    return BanditImpressions(item, slot - slot.min(), propensity, click.astype(np.float64))


def slot_probabilities(log: BanditImpressions, policy: str, items: int) -> Array:
    """Return the probability of every item at every slot [SLOTS, items], over the week."""
    if policy == "random":
        return np.full((SLOTS, items), 1 / items)
    impressions = np.zeros((SLOTS, items))
    np.add.at(impressions, (log.slot, log.item), 1)
    return impressions / impressions.sum(1, keepdims=True)


def click_rates(log: BanditImpressions, items: int) -> Array:
    """Return the click rate of every item for each impression: [n, items].

    The rates come from the half of the log that does not contain the impression.
    """
    half = np.arange(len(log.item)) % 2
    rates = np.empty((2, items))
    for k in range(2):
        fit = half != k
        clicks, impressions = np.zeros(items), np.zeros(items)
        np.add.at(clicks, log.item[fit], log.click[fit])
        np.add.at(impressions, log.item[fit], 1)
        rates[k] = (clicks + PRIOR_IMPRESSIONS * log.click[fit].mean()) / (impressions + PRIOR_IMPRESSIONS)
    return rates[half]


def compare_policies() -> list[Row]:
    """Return a row for each campaign, logging policy and estimator, with the order of the two policies."""
    return [row for campaign in CAMPAIGNS for row in _campaign_rows(campaign)]


def _campaign_rows(campaign: str) -> list[Row]:
    logs = {policy: read_impressions(policy, campaign) for policy in POLICIES}
    on_policy = {policy: clustered_mean(log.click, np.arange(len(log.click))) for policy, log in logs.items()}
    on_policy_verdict = _on_policy_verdict(on_policy["bts"], on_policy["random"])
    rows = []
    for logging, target in (("random", "bts"), ("bts", "random")):
        for row in _estimates(logs[logging], logs[target], logging, target):
            on_policy_columns = {
                "on_policy_value": on_policy[target].value, "on_policy_verdict": on_policy_verdict
            }  # fmt: skip
            rows.append({"campaign": campaign, "logging_policy": logging, "target_policy": target}
                        | row | on_policy_columns)  # fmt: skip
    return rows


def _estimates(log: BanditImpressions, target_log: BanditImpressions, logging: str, target: str) -> list[Row]:
    """Return a row per estimator with the target policy's value, estimated from the other policy's log."""
    items = 1 + max(int(part.item.max()) for part in (log, target_log))
    probability = slot_probabilities(target_log, target, items)
    weight = importance_ratio(probability[log.slot, log.item], log.propensity)[:, None]
    reward, user = log.click[:, None], np.arange(len(log.item))
    rates = click_rates(log, items)
    direct = (probability[log.slot] * rates).sum(1)
    predicted = np.take_along_axis(rates, log.item[:, None], 1)
    diagnostics = weight_diagnostics(weight, SINGLE_SLOT, user)
    terms_by_estimator = {
        "ips": ips(reward, weight),
        "snips": snips(reward, weight, SINGLE_SLOT),
        "direct": direct,
        "doubly robust": doubly_robust(reward, weight, predicted, direct),
    }
    rows = []
    for name, terms in terms_by_estimator.items():
        estimate, difference = clustered_mean(terms, user), clustered_mean(terms - log.click, user)
        verdict = "–"  # the interval of a model's prediction is not that of its error
        if name != "direct":
            verdict = policy_verdict(difference, diagnostics, name == "ips")
        if verdict in ("better", "worse"):
            verdict = _policy_order(target, logging, difference)
        rows.append(
            {
                "estimator": name,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "effective_sample_size": round(diagnostics.effective_sample_size),
                "max_weight": round(diagnostics.max_weight, 1),
                "mean_weight": round(diagnostics.support.value, 3),
                "verdict": verdict,
            }
        )
    return rows


def _on_policy_verdict(bts: IntervalEstimate, random: IntervalEstimate) -> str:
    """Return the order of the two policies, each measured on its own log."""
    se = float(np.hypot(bts.se, random.se))
    gap = bts.value - random.value
    difference = IntervalEstimate(gap, se, gap - Z_95 * se, gap + Z_95 * se)
    is_significant = difference.low > 0 or difference.high < 0
    return _policy_order("bts", "random", difference) if is_significant else "not enough data"


def _policy_order(first: str, second: str, difference: IntervalEstimate) -> str:
    return f"{first} > {second}" if difference.value > 0 else f"{second} > {first}"
