"""All policies in the same shops: regret, and how soon new items are shown."""

from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from experimentation.exploration import learner, policies, simulated_shop
from experimentation.exploration.learner import Heads, Outcomes
from experimentation.exploration.policies import Policy
from experimentation.exploration.simulated_shop import Day, Shop
from experimentation.off_policy.estimators import estimate
from experimentation.off_policy.simulated_logs import SEEN

Array = np.ndarray
Row = dict[str, Any]
ANSWERS = {"as simulated": 0.0, "as in baskets": 0.8}  # Shop.appeal: baskets follow it by .8 (market.wanted)
NONE, INFORMED, ORACLE = "none", "all answers known", "oracle"
POLICIES: dict[str, Policy] = {
    NONE: policies.greedy,
    "ε = .05": policies.slot(0.05),
    "ε = .1": policies.slot(0.1),
    "ε = .3": policies.slot(0.3),
    "ε = 1": policies.slot(1.0),
    "Thompson, width .5": policies.thompson(0.5),
    "Thompson": policies.thompson(1.0),
    "LinUCB, width .5": policies.linucb(0.5),
    "LinUCB, width 1": policies.linucb(1.0),
    "LinUCB, width 2": policies.linucb(2.0),
    "random": policies.even,
    INFORMED: policies.greedy,  # told what all items would have answered: what exploring can teach at most
    ORACLE: policies.oracle,
}
FIRST = 21  # days after its arrival for which a new item is followed
KNOWN = 50  # impressions after which it counts as shown
BEST = 0.1  # share of the new items that are the best


class Tally(NamedTuple):
    """What a policy did in a shop, by day. Revenue is expected, per checkout."""

    earned: Array  # [days]
    believed: Array  # [days] what the slates that it believed in would have earned
    new: Array  # [days] of `earned`, from items that arrived since day 0
    shown: Array  # [days, I] impressions


class Ran(NamedTuple):
    """One shop under every policy."""

    tallies: dict[str, Tally]
    worth: Array  # [days, I] mean expected revenue of an item that is seen
    first: Array  # [I] day of arrival


def compare(like: Shop, seeds: int) -> list[Row]:
    """A row for each way in which people answer to appeal and each policy, over shops as large as `like`.

    Shows progress.
    """
    rows, steps = [], len(ANSWERS) * seeds * (simulated_shop.WARM + like.days)
    with tqdm(total=steps, desc="simulated shops", unit="day") as bar:
        for answers, appeal in ANSWERS.items():
            ran = [run(like._replace(seed=seed, appeal=appeal), bar) for seed in range(seeds)]
            rows += [{"answers": answers, "policy": name} | measured(ran, name) for name in POLICIES]
    return rows


def run(shop: Shop, bar: tqdm) -> Ran:
    """Every policy in one shop; they start from what the warm days taught."""
    first = simulated_shop.arrivals(simulated_shop.catalog(shop))
    fresh = first >= 0
    start = Heads(*(learner.prior(simulated_shop.FACTS, shop.items) for _ in Heads._fields))
    warm, *own = (np.random.default_rng([shop.seed, 2, number]) for number in range(1 + len(POLICIES)))
    rngs = dict(zip(POLICIES, own, strict=True))
    beliefs = dict.fromkeys(POLICIES, start)
    tallies: dict[str, list[Tally]] = {name: [] for name in POLICIES}
    worth = []
    for day in simulated_shop.days(shop):
        bar.update()
        if day.number < 0:
            start = told(start, day, policies.shop(day, warm), SEEN)
            beliefs = dict.fromkeys(POLICIES, start)
            continue
        worth.append(day.value.mean(0) * day.there)
        for name, policy in POLICIES.items():
            slate = policy(beliefs[name], day, rngs[name])
            tallies[name].append(_tally(beliefs[name], day, slate, fresh))
            asked = _everything(day) if name == INFORMED else (slate, SEEN)
            beliefs[name] = told(beliefs[name], day, *asked)
    by_day = {name: Tally(*map(np.array, zip(*some, strict=True))) for name, some in tallies.items()}
    return Ran(by_day, np.array(worth), first)


def told(heads: Heads, day: Day, items: Array, seen: Array) -> Heads:
    """The beliefs after the answers to items [n, m] that were seen with p [m]."""
    clicked, bought = day.answers(items, seen)
    facts = np.take_along_axis(day.facts, items[:, :, None], 1)
    at = np.broadcast_to(seen, items.shape)
    clicks = Outcomes(facts.reshape(-1, facts.shape[2]), items.ravel(), at.ravel(), clicked.ravel())
    buys = Outcomes(facts[clicked], items[clicked], np.ones(int(clicked.sum())), bought[clicked])
    return Heads(learner.learned(heads.click, clicks), learner.learned(heads.buy, buys))


def _everything(day: Day) -> tuple[Array, Array]:
    """All items that are there, each as if it stood first."""
    items = np.flatnonzero(day.there)
    return np.broadcast_to(items, (len(day.facts), len(items))), np.ones(len(items))


def _tally(heads: Heads, day: Day, slate: Array, fresh: Array) -> Tally:
    earned = day.earned(slate)
    trusted = policies.best(policies.believed(heads, day), day.there)
    return Tally(
        earned=earned.sum(1).mean(),
        believed=day.earned(trusted).sum(1).mean(),
        new=(earned * fresh[slate]).sum(1).mean(),
        shown=np.bincount(slate.ravel(), minlength=len(fresh)),
    )


def measured(ran: list[Ran], name: str) -> Row:
    """What a policy did in all shops: means over them with 95 % intervals.

    Money is a share of what the oracle earns in the same shop. `gain` is what the policy earns more than no
    exploring; it is `taught`, what the slates that it believes in earn more, less `paid`, what it gave up by
    not showing them. `new_best_gain` is against no exploring too.
    """
    most = np.array([one.tallies[ORACLE].earned.mean() for one in ran])  # [shops]
    mine, none, oracle = ([one.tallies[which] for one in ran] for which in (name, NONE, ORACLE))
    earned, base = (np.array([tally.earned.mean() for tally in some]) for some in (mine, none))
    lost = np.array([b.earned - a.earned for a, b in zip(mine, oracle, strict=True)]) / most[:, None]
    found = {"regret": 1 - earned / most, "gain": (earned - base) / most}
    if name != ORACLE:  # which believes in nothing
        trusted = np.array([tally.believed.mean() for tally in mine])
        found |= {"taught": (trusted - base) / most, "paid": (trusted - earned) / most}
    found["new_revenue"] = np.array([tally.new.mean() for tally in mine]) / most
    seen, unaided = (
        [new_items(tally.shown, one.worth, one.first) for tally, one in zip(some, ran, strict=True)]
        for some in (mine, none)
    )
    found |= {f"new_{what}": np.array([one[what] for one in seen]) for what in seen[0]}
    found["new_best_gain"] = found["new_best"] - np.array([one["best"] for one in unaided])
    row: Row = {}
    for what, values in found.items():
        known = values[np.isfinite(values)]  # a shop may have no new item that can be followed
        value, _, low, high = estimate(known, np.arange(len(known)))
        row |= {what: value, f"{what}_low": low, f"{what}_high": high}
    return row | {"days_lost": np.cumsum(lost.mean(0)).tolist()}  # in days of the oracle's revenue


def new_items(shown: Array, worth: Array, first: Array) -> dict[str, float]:
    """What became of the items that arrived on day 0 or later; `shown` and `worth` are [days, I].

    share: their part of all impressions. best, wait: impressions of the most valuable tenth in their first
    FIRST days, by item, and days until one of them has KNOWN, at most FIRST; of items with so many days left.
    """
    fresh = np.flatnonzero(first >= 0)
    followed = fresh[first[fresh] + FIRST <= len(shown)]
    value = np.array([worth[first[item] :, item].mean() for item in followed])
    best = followed[np.argsort(-value)[: max(1, round(BEST * len(followed)))]]
    early = np.array([shown[first[item] :, item][:FIRST] for item in best]).reshape(-1, FIRST)
    return {
        "share": shown[:, fresh].sum() / shown.sum(),
        "best": early.sum(1).mean() if len(best) else np.nan,
        "wait": (np.cumsum(early, axis=1) < KNOWN).sum(1).mean() if len(best) else np.nan,
    }
