"""Comparison of all policies in the same shops: regret, and impressions of new items."""

from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experimentation.exploration import learner, policies, simulated_shop
from experimentation.exploration.learner import Beliefs, Observations
from experimentation.exploration.policies import Policy
from experimentation.exploration.simulated_shop import Day, ShopConfig
from experimentation.off_policy.estimators import clustered_mean
from experimentation.off_policy.simulated_logs import EXAMINATION_PROBABILITY

Array = np.ndarray
Row = dict[str, Any]
APPEAL_WEIGHTS = {  # ShopConfig.appeal_weight; .8 is appeal's weight in behaviour.basket_logits
    "weak appeal (simulator)": 0.0,
    "strong appeal (as in baskets)": 0.8,
}
NO_EXPLORATION, FULL_FEEDBACK, ORACLE = "no exploration", "full feedback", "oracle"
POLICIES: dict[str, Policy] = {
    NO_EXPLORATION: policies.greedy,
    "ε = .05": policies.epsilon_last_slot(0.05),
    "ε = .1": policies.epsilon_last_slot(0.1),
    "ε = .3": policies.epsilon_last_slot(0.3),
    "ε = 1": policies.epsilon_last_slot(1.0),
    "Thompson, width .5": policies.thompson(0.5),
    "Thompson": policies.thompson(1.0),
    "LinUCB, width .5": policies.linucb(0.5),
    "LinUCB, width 1": policies.linucb(1.0),
    "LinUCB, width 2": policies.linucb(2.0),
    "random": policies.uniform_random,
    FULL_FEEDBACK: policies.greedy,  # observes the responses to all items: the upper bound of learning
    ORACLE: policies.oracle,
}
NEW_ITEM_FOLLOW_DAYS = 21  # days after its arrival for which a new item is followed
DISCOVERY_IMPRESSIONS = 50  # impressions at which a new item counts as discovered
TOP_ITEM_SHARE = 0.1  # share of the new items that count as the best


class PolicyDays(NamedTuple):
    """The results of a policy in a shop, by day. Revenue is expected, per checkout."""

    revenue: Array  # [days]
    greedy_revenue: Array  # [days] of the greedy slates by the policy's own beliefs
    new_item_revenue: Array  # [days] part of `revenue` from items that arrived since day 0
    impressions: Array  # [days, I]


class ShopRun(NamedTuple):
    """One shop under every policy."""

    policy_days: dict[str, PolicyDays]
    item_value: Array  # [days, I] mean expected revenue of an item given examination
    arrival_day: Array  # [I]


def compare_policies(shop_config: ShopConfig, seeds: int) -> list[Row]:
    """Return a row for each appeal weight and policy, over `seeds` shops of this size. Shows progress."""
    rows, steps = [], len(APPEAL_WEIGHTS) * seeds * (simulated_shop.WARMUP_DAYS + shop_config.days)
    with tqdm(total=steps, desc="simulated shops", unit="day") as bar:
        for appeal, appeal_weight in APPEAL_WEIGHTS.items():
            runs = [
                run_policies(shop_config._replace(seed=seed, appeal_weight=appeal_weight), bar)
                for seed in range(seeds)
            ]
            rows += [{"appeal": appeal, "policy": name} | policy_metrics(runs, name) for name in POLICIES]
    return rows


def run_policies(shop: ShopConfig, bar: tqdm) -> ShopRun:
    """Run every policy in one shop; all policies start from the posteriors after the warm-up."""
    arrival_day = simulated_shop.arrival_days(simulated_shop.shop_items(shop))
    is_new = arrival_day >= 0
    warm = Beliefs(*(learner.prior(simulated_shop.N_FEATURES, shop.items) for _ in Beliefs._fields))
    warm_rng, *policy_rngs = (
        np.random.default_rng([shop.seed, 2, number]) for number in range(1 + len(POLICIES))
    )
    rngs = dict(zip(POLICIES, policy_rngs, strict=True))
    beliefs = dict.fromkeys(POLICIES, warm)
    days: dict[str, list[PolicyDays]] = {name: [] for name in POLICIES}
    item_value = []
    for day in simulated_shop.simulate_days(shop):
        bar.update()
        if day.number < 0:
            warm = update_beliefs(warm, day, policies.shop_policy(day, warm_rng), EXAMINATION_PROBABILITY)
            beliefs = dict.fromkeys(POLICIES, warm)
            continue
        item_value.append(day.expected_revenue.mean(0) * day.available)
        for name, policy in POLICIES.items():
            slate = policy(beliefs[name], day, rngs[name])
            days[name].append(_record_day(beliefs[name], day, slate, is_new))
            observed = (slate, EXAMINATION_PROBABILITY)
            if name == FULL_FEEDBACK:
                observed = _all_available_items(day)
            beliefs[name] = update_beliefs(beliefs[name], day, *observed)
    policy_days = {
        name: PolicyDays(*map(np.array, zip(*records, strict=True))) for name, records in days.items()
    }
    return ShopRun(policy_days, np.array(item_value), arrival_day)


def update_beliefs(beliefs: Beliefs, day: Day, items: Array, p_examined: Array) -> Beliefs:
    """Return the posteriors after the responses to `items` [n, m].

    An item in column j is examined with probability `p_examined[j]`.
    """
    clicked, purchased = day.sample_feedback(items, p_examined)
    features = np.take_along_axis(day.features, items[:, :, None], 1)
    p_examined = np.broadcast_to(p_examined, items.shape)
    clicks = Observations(
        features.reshape(-1, features.shape[2]), items.ravel(), p_examined.ravel(), clicked.ravel()
    )
    purchases = Observations(
        features[clicked], items[clicked], np.ones(int(clicked.sum())), purchased[clicked]
    )
    return Beliefs(
        learner.update_belief(beliefs.click, clicks), learner.update_belief(beliefs.purchase, purchases)
    )


def _all_available_items(day: Day) -> tuple[Array, Array]:
    """Return all available items, each as if it had the first slot."""
    items = np.flatnonzero(day.available)
    return np.broadcast_to(items, (len(day.features), len(items))), np.ones(len(items))


def _record_day(beliefs: Beliefs, day: Day, slate: Array, is_new: Array) -> PolicyDays:
    revenue = day.slate_revenue(slate)
    greedy = policies.top_slates(policies.expected_value(beliefs, day), day.available)
    return PolicyDays(
        revenue=revenue.sum(1).mean(),
        greedy_revenue=day.slate_revenue(greedy).sum(1).mean(),
        new_item_revenue=(revenue * is_new[slate]).sum(1).mean(),
        impressions=np.bincount(slate.ravel(), minlength=len(is_new)),
    )


def policy_metrics(runs: list[ShopRun], name: str) -> Row:
    """The metrics of a policy over all shops: means with 95 % intervals.

    Money is a share of the oracle's revenue in the same shop. `gain` is the policy's revenue minus the
    revenue without exploration. `gain` is also `learning_gain` minus `exploration_cost`. `learning_gain` is
    what greedy slates by the policy's posteriors would gain. `exploration_cost` is what the policy loses
    because it shows other slates. `top_new_impressions_gain` is also relative to no exploration.
    """
    policy, baseline, oracle = (
        [run.policy_days[policy_name] for run in runs] for policy_name in (name, NO_EXPLORATION, ORACLE)
    )
    revenue, baseline_revenue, oracle_revenue = (
        np.array([days.revenue.mean() for days in part]) for part in (policy, baseline, oracle)
    )  # [shops]
    metrics = {
        "regret": 1 - revenue / oracle_revenue,
        "gain": (revenue - baseline_revenue) / oracle_revenue,
    }
    if name != ORACLE:  # it has no beliefs
        greedy_revenue = np.array([days.greedy_revenue.mean() for days in policy])
        metrics["learning_gain"] = (greedy_revenue - baseline_revenue) / oracle_revenue
        metrics["exploration_cost"] = (greedy_revenue - revenue) / oracle_revenue
    metrics["new_item_revenue"] = np.array([days.new_item_revenue.mean() for days in policy]) / oracle_revenue
    new_items, baseline_new_items = (
        [
            new_item_metrics(days.impressions, run.item_value, run.arrival_day)
            for days, run in zip(part, runs, strict=True)
        ]
        for part in (policy, baseline)
    )
    metrics |= {metric: np.array([shop[metric] for shop in new_items]) for metric in new_items[0]}
    metrics["top_new_impressions_gain"] = metrics["top_new_impressions"] - np.array(
        [shop["top_new_impressions"] for shop in baseline_new_items]
    )
    row: Row = {}
    for metric, values in metrics.items():
        finite = values[np.isfinite(values)]  # a shop may have no new item that can be followed
        value, _, low, high = clustered_mean(finite, np.arange(len(finite)))
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    daily_regret = (
        np.array([best.revenue - days.revenue for days, best in zip(policy, oracle, strict=True)])
        / oracle_revenue[:, None]
    )
    # Cumulative, in days of the oracle's revenue.
    return row | {"regret_days": np.cumsum(daily_regret.mean(0)).tolist()}


def new_item_metrics(impressions: Array, item_value: Array, arrival_day: Array) -> dict[str, float]:
    """Return metrics of the items that arrived on day 0 or later.

    `impressions` and `item_value` are [days, I], `arrival_day` is [I].

    `new_item_share` is the share of these items in all impressions. `top_new_impressions` is the mean number
    of impressions of the most valuable tenth in their first NEW_ITEM_FOLLOW_DAYS days. `days_to_discovery` is
    the mean number of days, at most NEW_ITEM_FOLLOW_DAYS, until an item of this tenth has
    DISCOVERY_IMPRESSIONS. The last two metrics leave out items that arrive too late to be followed for
    NEW_ITEM_FOLLOW_DAYS days.
    """
    new_items = np.flatnonzero(arrival_day >= 0)
    followed = new_items[arrival_day[new_items] + NEW_ITEM_FOLLOW_DAYS <= len(impressions)]
    value = np.array([item_value[arrival_day[item] :, item].mean() for item in followed])
    top = followed[np.argsort(-value)[: max(1, round(TOP_ITEM_SHARE * len(followed)))]]
    by_day = np.array(
        [impressions[arrival_day[item] :, item][:NEW_ITEM_FOLLOW_DAYS] for item in top]
    ).reshape(-1, NEW_ITEM_FOLLOW_DAYS)  # [top items, days since arrival]
    is_undiscovered = np.cumsum(by_day, axis=1) < DISCOVERY_IMPRESSIONS
    return {
        "new_item_share": impressions[:, new_items].sum() / impressions.sum(),
        "top_new_impressions": by_day.sum(1).mean() if len(top) else np.nan,
        "days_to_discovery": is_undiscovered.sum(1).mean() if len(top) else np.nan,
    }
