"""Random policy against BTS on the sample of the Open Bandit Dataset (Saito et al., NeurIPS 2021).

    python -m experimentation.off_policy open-bandit

Three campaigns of a fashion shop, each with 10,000 impressions of a random policy and 10,000 of Bernoulli
Thompson sampling, from the same week; an impression is one of three slots. The value of each policy is
estimated from the log of the other, and held against its own log. The sample lies as CSV files in the package
`obp`, of which nothing is imported.

BTS learns while it logs, so its chance of an item is known only for what it showed. What is estimated from
the random log is BTS as it was over the week: an item's chance at a slot is its share of BTS's impressions
there.
The sample names no users, so impressions count as independent.
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
PRIOR_IMPRESSIONS = 500  # impressions of an item after which its own click rate counts as much as the mean
SINGLE_SLOT = np.ones(1)  # a session is one impression


class BanditImpressions(NamedTuple):
    """n impressions of a policy."""

    item: Array  # [n] int64
    slot: Array  # [n] int64, 0 first
    propensity: Array  # [n] chance of the item at the slot
    click: Array  # [n] float64


def folder() -> Path:
    """Where the sample lies. Raises ImportError if the package is not installed."""
    try:
        return Path(str(distribution("obp").locate_file("obp/dataset/obd")))
    except PackageNotFoundError as error:
        raise ImportError(
            "the Open Bandit sample is missing. To do: pip install --no-deps obp==0.4.1"
        ) from error


def read_impressions(policy: str, campaign: str) -> BanditImpressions:
    """The log of a policy in a campaign."""
    table = csv.read_csv(folder() / policy / campaign / f"{campaign}.csv")
    item, slot, propensity, click = (
        table[name].to_numpy() for name in ("item_id", "position", "propensity_score", "click")
    )
    return BanditImpressions(item, slot - slot.min(), propensity, click.astype(np.float64))


def slot_probabilities(log: BanditImpressions, policy: str, items: int) -> Array:
    """Chance of every item at every slot [SLOTS, items], over the week."""
    if policy == "random":
        return np.full((SLOTS, items), 1 / items)
    shown = np.zeros((SLOTS, items))
    np.add.at(shown, (log.slot, log.item), 1)
    return shown / shown.sum(1, keepdims=True)


def click_rates(log: BanditImpressions, items: int) -> Array:
    """Click rate of every item for each impression [n, items], from the half that it is not in."""
    half = np.arange(len(log.item)) % 2
    rates = np.empty((2, items))
    for k in range(2):
        other = half != k
        clicks, shown = np.zeros(items), np.zeros(items)
        np.add.at(clicks, log.item[other], log.click[other])
        np.add.at(shown, log.item[other], 1)
        rates[k] = (clicks + PRIOR_IMPRESSIONS * log.click[other].mean()) / (shown + PRIOR_IMPRESSIONS)
    return rates[half]


def compare_policies() -> list[Row]:
    """A row for each campaign, log and estimator; then what the two logs themselves say."""
    return [row for campaign in CAMPAIGNS for row in _campaign(campaign)]


def _campaign(campaign: str) -> list[Row]:
    logs = {policy: read_impressions(policy, campaign) for policy in POLICIES}
    items = 1 + max(int(log.item.max()) for log in logs.values())
    own = {policy: _mean(log.click) for policy, log in logs.items()}
    spread = float(np.hypot(own["bts"].se, own["random"].se))
    gap = own["bts"].value - own["random"].value
    truth = IntervalEstimate(gap, spread, gap - 1.96 * spread, gap + 1.96 * spread)
    clear = truth.low > 0 or truth.high < 0
    order = _policy_order("bts", "random", truth) if clear else "not enough data"
    rows = []
    for by, of in (("random", "bts"), ("bts", "random")):
        log, chance = logs[by], slot_probabilities(logs[of], of, items)
        weight = importance_ratio(chance[log.slot, log.item], log.propensity)[:, None]
        reward, user = log.click[:, None], np.arange(len(log.item))
        rates = click_rates(log, items)
        direct = (chance[log.slot] * rates).sum(1)
        predicted = np.take_along_axis(rates, log.item[:, None], 1)
        state = weight_diagnostics(weight, SINGLE_SLOT, user)
        for name, terms in {
            "ips": ips(reward, weight),
            "snips": snips(reward, weight, SINGLE_SLOT),
            "direct": direct,
            "doubly robust": doubly_robust(reward, weight, predicted, direct),
        }.items():
            one, more = clustered_mean(terms, user), clustered_mean(terms - log.click, user)
            said = (
                policy_verdict(more, state, name == "ips") if name != "direct" else "–"
            )  # a model's word has no such interval
            rows.append(
                {
                    "campaign": campaign,
                    "log": by,
                    "judged": of,
                    "estimator": name,
                    "value": one.value,
                    "low": one.low,
                    "high": one.high,
                    "own_log": own[of].value,
                    "effective": round(state.effective_sample_size),
                    "largest": round(state.max_weight, 1),
                    "mean_weight": round(state.support.value, 3),
                    "says": _policy_order(of, by, more) if said in ("better", "worse") else said,
                    "both_logs_say": order,
                }
            )
    return rows


def _mean(click: Array) -> IntervalEstimate:
    return clustered_mean(click, np.arange(len(click)))


def _policy_order(one: str, other: str, difference: IntervalEstimate) -> str:
    return f"{one} > {other}" if difference.value > 0 else f"{other} > {one}"
