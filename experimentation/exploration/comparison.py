"""All policies in the same shops: regret, and how soon new items are shown."""

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
APPEAL_WEIGHTS = {
    "as simulated": 0.0,
    "as in baskets": 0.8,
}  # Shop.appeal: baskets follow it by .8 (market.wanted)
NO_EXPLORATION, FULL_FEEDBACK, ORACLE = "none", "all answers known", "oracle"
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
    FULL_FEEDBACK: policies.greedy,  # told what all items would have answered: what exploring can teach at most
    ORACLE: policies.oracle,
}
NEW_ITEM_FOLLOW_DAYS = 21  # days after its arrival for which a new item is followed
DISCOVERY_IMPRESSIONS = 50  # impressions after which it counts as shown
TOP_ITEM_SHARE = 0.1  # share of the new items that are the best


class PolicyDays(NamedTuple):
    """What a policy did in a shop, by day. Revenue is expected, per checkout."""

    revenue: Array  # [days]
    greedy_revenue: Array  # [days] what the slates that it believed in would have earned
    new_item_revenue: Array  # [days] of `earned`, from items that arrived since day 0
    impressions: Array  # [days, I] impressions


class ShopRun(NamedTuple):
    """One shop under every policy."""

    policy_days: dict[str, PolicyDays]
    item_value: Array  # [days, I] mean expected revenue of an item that is seen
    arrival_day: Array  # [I] day of arrival


def compare_policies(shop_config: ShopConfig, seeds: int) -> list[Row]:
    """A row for each way in which people answer to appeal and each policy, over shops as large as `like`.

    Shows progress.
    """
    rows, steps = [], len(APPEAL_WEIGHTS) * seeds * (simulated_shop.WARMUP_DAYS + shop_config.days)
    with tqdm(total=steps, desc="simulated shops", unit="day") as bar:
        for answers, appeal in APPEAL_WEIGHTS.items():
            ran = [
                run_policies(shop_config._replace(seed=seed, appeal_weight=appeal), bar)
                for seed in range(seeds)
            ]
            rows += [{"answers": answers, "policy": name} | policy_metrics(ran, name) for name in POLICIES]
    return rows


def run_policies(shop: ShopConfig, bar: tqdm) -> ShopRun:
    """Every policy in one shop; they start from what the warm days taught."""
    first = simulated_shop.arrival_days(simulated_shop.shop_items(shop))
    fresh = first >= 0
    start = Beliefs(*(learner.prior(simulated_shop.N_FEATURES, shop.items) for _ in Beliefs._fields))
    warm, *own = (np.random.default_rng([shop.seed, 2, number]) for number in range(1 + len(POLICIES)))
    rngs = dict(zip(POLICIES, own, strict=True))
    beliefs = dict.fromkeys(POLICIES, start)
    tallies: dict[str, list[PolicyDays]] = {name: [] for name in POLICIES}
    worth = []
    for day in simulated_shop.simulate_days(shop):
        bar.update()
        if day.number < 0:
            start = update_beliefs(start, day, policies.shop_policy(day, warm), EXAMINATION_PROBABILITY)
            beliefs = dict.fromkeys(POLICIES, start)
            continue
        worth.append(day.expected_revenue.mean(0) * day.available)
        for name, policy in POLICIES.items():
            slate = policy(beliefs[name], day, rngs[name])
            tallies[name].append(_record_day(beliefs[name], day, slate, fresh))
            asked = _all_available_items(day) if name == FULL_FEEDBACK else (slate, EXAMINATION_PROBABILITY)
            beliefs[name] = update_beliefs(beliefs[name], day, *asked)
    by_day = {name: PolicyDays(*map(np.array, zip(*some, strict=True))) for name, some in tallies.items()}
    return ShopRun(by_day, np.array(worth), first)


def update_beliefs(heads: Beliefs, day: Day, items: Array, seen: Array) -> Beliefs:
    """The beliefs after the answers to items [n, m] that were seen with p [m]."""
    clicked, bought = day.sample_feedback(items, seen)
    facts = np.take_along_axis(day.features, items[:, :, None], 1)
    at = np.broadcast_to(seen, items.shape)
    clicks = Observations(facts.reshape(-1, facts.shape[2]), items.ravel(), at.ravel(), clicked.ravel())
    buys = Observations(facts[clicked], items[clicked], np.ones(int(clicked.sum())), bought[clicked])
    return Beliefs(learner.update_belief(heads.click, clicks), learner.update_belief(heads.purchase, buys))


def _all_available_items(day: Day) -> tuple[Array, Array]:
    """All items that are there, each as if it stood first."""
    items = np.flatnonzero(day.available)
    return np.broadcast_to(items, (len(day.features), len(items))), np.ones(len(items))


def _record_day(heads: Beliefs, day: Day, slate: Array, fresh: Array) -> PolicyDays:
    earned = day.slate_revenue(slate)
    trusted = policies.top_slates(policies.expected_value(heads, day), day.available)
    return PolicyDays(
        revenue=earned.sum(1).mean(),
        greedy_revenue=day.slate_revenue(trusted).sum(1).mean(),
        new_item_revenue=(earned * fresh[slate]).sum(1).mean(),
        impressions=np.bincount(slate.ravel(), minlength=len(fresh)),
    )


def policy_metrics(ran: list[ShopRun], name: str) -> Row:
    """What a policy did in all shops: means over them with 95 % intervals.

    Money is a share of what the oracle earns in the same shop. `gain` is what the policy earns more than no
    exploring; it is `taught`, what the slates that it believes in earn more, less `paid`, what it gave up by
    not showing them. `new_best_gain` is against no exploring too.
    """
    most = np.array([one.policy_days[ORACLE].revenue.mean() for one in ran])  # [shops]
    mine, none, oracle = ([one.policy_days[which] for one in ran] for which in (name, NO_EXPLORATION, ORACLE))
    earned, base = (np.array([tally.revenue.mean() for tally in some]) for some in (mine, none))
    lost = np.array([b.revenue - a.revenue for a, b in zip(mine, oracle, strict=True)]) / most[:, None]
    found = {"regret": 1 - earned / most, "gain": (earned - base) / most}
    if name != ORACLE:  # which believes in nothing
        trusted = np.array([tally.greedy_revenue.mean() for tally in mine])
        found |= {"taught": (trusted - base) / most, "paid": (trusted - earned) / most}
    found["new_revenue"] = np.array([tally.new_item_revenue.mean() for tally in mine]) / most
    seen, unaided = (
        [
            new_item_metrics(tally.impressions, one.item_value, one.arrival_day)
            for tally, one in zip(some, ran, strict=True)
        ]
        for some in (mine, none)
    )
    found |= {f"new_{what}": np.array([one[what] for one in seen]) for what in seen[0]}
    found["new_best_gain"] = found["new_best"] - np.array([one["best"] for one in unaided])
    row: Row = {}
    for what, values in found.items():
        known = values[np.isfinite(values)]  # a shop may have no new item that can be followed
        value, _, low, high = clustered_mean(known, np.arange(len(known)))
        row |= {what: value, f"{what}_low": low, f"{what}_high": high}
    return row | {"days_lost": np.cumsum(lost.mean(0)).tolist()}  # in days of the oracle's revenue


def new_item_metrics(shown: Array, worth: Array, first: Array) -> dict[str, float]:
    """What became of the items that arrived on day 0 or later; `shown` and `worth` are [days, I].

    share: their part of all impressions. best, wait: impressions of the most valuable tenth in their first
    FIRST days, by item, and days until one of them has KNOWN, at most FIRST; of items with so many days left.
    """
    fresh = np.flatnonzero(first >= 0)
    followed = fresh[first[fresh] + NEW_ITEM_FOLLOW_DAYS <= len(shown)]
    value = np.array([worth[first[item] :, item].mean() for item in followed])
    best = followed[np.argsort(-value)[: max(1, round(TOP_ITEM_SHARE * len(followed)))]]
    early = np.array([shown[first[item] :, item][:NEW_ITEM_FOLLOW_DAYS] for item in best]).reshape(
        -1, NEW_ITEM_FOLLOW_DAYS
    )
    return {
        "share": shown[:, fresh].sum() / shown.sum(),
        "best": early.sum(1).mean() if len(best) else np.nan,
        "wait": (np.cumsum(early, axis=1) < DISCOVERY_IMPRESSIONS).sum(1).mean() if len(best) else np.nan,
    }
