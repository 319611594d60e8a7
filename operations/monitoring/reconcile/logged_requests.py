"""Logged requests, rebuilt from the shop's tables, and how far their replay is from what was logged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.logged_slates import Log
from operations.monitoring.past_checkouts import Orders
from operations.monitoring.replay import scored
from serving import Checkout, Recommender
from serving.stores.base import Facts, Store

CAP = 1.0  # log-odds: what is further away, or no candidate at all, counts as much
SAME = 0.01  # log-odds that rounding may make
TINY = 1e-6
CLOCK = 300  # seconds by which clocks differ
EARLY = 28 * DAY  # by which a table may date a purchase too early

Variant = Callable[["Asked"], tuple[Checkout, Facts]]  # the request with another input


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was logged with predictions."""

    checkout: Checkout
    facts: Facts  # what should have been known of the user
    ts: int  # of the checkout
    last: Checkout | None  # the one that its user was answered before
    items: NDArray  # [k] rows of the items shown
    said: NDArray  # [k, 2] logged p(click) and p(purchase)
    bought: NDArray  # [k] bool
    dated: Facts  # the same, where the log knows better when something was bought


def sample(
    log: Log, orders: Orders, profiles: dict[str, dict[str, Any]], recommender: Recommender,
    store: Store | None, count: int, seed: int = 0,
) -> list[Asked]:  # fmt: skip
    """Up to `count` requests of the log's newer half, so that what led to them is in the log too: those that
    the recommender's version ranked, and whose order is known."""
    slates, shown, bundle = log.slates, log.shown, recommender.bundle
    row = np.array([orders.row_of.get(order, -1) for order in slates.order_id.tolist()], np.int64)
    unsaid = np.bincount(shown.slate, np.isnan(shown.click), len(row)) > 0
    usable = (row >= 0) & ~unsaid & (slates.tier == "ranked") & (slates.version == bundle.version)
    usable &= slates.ts >= (slates.ts[0] + slates.ts[-1]) // 2
    last = _last(slates.user_id.tolist(), row)
    dated = dated_by(log, orders)
    first = np.searchsorted(shown.slate, np.arange(len(row) + 1))

    def checkout(slate: int) -> Checkout:
        profile = profiles.get(slates.user_id[slate])
        return orders.checkout(int(row[slate]), int(slates.ts[slate]), profile)

    asked = []
    for slate in np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:count]).tolist():
        here, user, ts = slice(first[slate], first[slate + 1]), slates.user_id[slate], int(slates.ts[slate])
        facts = orders.before(user, ts) if store is None or user is None else store.get(user)
        asked.append(
            Asked(
                checkout(slate),
                facts,
                ts,
                checkout(last[slate]) if last[slate] >= 0 else None,
                np.array(bundle.row_of.many(shown.item_id[here].tolist()), np.int64),
                np.stack([shown.click[here], shown.purchase[here]], 1),
                np.isfinite(shown.purchase_after[here]),
                dated.before(user, ts) if store is None else facts,
            )
        )
    return asked


def _last(users: list[str | None], row: NDArray) -> NDArray:
    """[n] the slate that the user of each slate was shown before, -1 for none whose order is known."""
    found = np.full(len(row), -1, np.int64)
    latest: dict[str, int] = {}
    for slate, user in enumerate(users):
        if user is not None and row[slate] >= 0:
            found[slate] = latest.get(user, -1)
            latest[user] = slate
    return found


def dated_by(log: Log, orders: Orders) -> Orders:
    """The orders with lines at the time at which the log saw them bought, where the table has the user buy
    the item earlier, and not then. An order that asked for a slate is dated by that, and what is older than
    the log stays."""
    at = orders.at.copy()
    asked = [orders.row_of[order] for order in log.slates.order_id.tolist() if order in orders.row_of]
    sure = np.repeat(np.isin(np.arange(len(orders.ts)), asked), np.diff(orders.first))  # [L]
    sure |= at < log.slates.ts[0]
    bought = np.flatnonzero(np.isfinite(log.shown.told_after))
    slate = log.shown.slate[bought]
    when = (log.slates.ts[slate] + log.shown.told_after[bought]).astype(np.int64)
    users, items = log.slates.user_id[slate].tolist(), log.shown.item_id[bought].tolist()
    for user, item, came in zip(users, items, when.tolist(), strict=True):
        start, stop = orders.rows.get(user, (0, 0))
        lines = np.arange(orders.first[start], orders.first[stop])
        lines = lines[(orders.item_id[lines] == item) & (orders.at[lines] <= came + CLOCK) & ~sure[lines]]
        if len(lines) and came - EARLY <= orders.at[lines[-1]] < came - CLOCK:
            at[lines[-1]] = came
    return orders._replace(at=at, known=np.maximum(orders.known, at))


def differences(recommender: Recommender, asked: Sequence[Asked], variant: Variant | None = None) -> NDArray:
    """[Σk, 2] log-odds of the replay less those that were logged, ±CAP at most, NaN for no candidate."""
    requests = [(one.checkout, one.facts) if variant is None else variant(one) for one in asked]
    parts = [
        logit(scores.of(one.items)[:, :2]) - logit(one.said)
        for one, scores in zip(asked, scored(recommender, requests), strict=True)
    ]
    return np.clip(np.concatenate(parts), -CAP, CAP)


def gaps(difference: NDArray, asked: Sequence[Asked]) -> NDArray:
    """[n] mean distance by request, of `differences`."""
    apart = np.nan_to_num(np.abs(difference), nan=CAP).mean(1)
    of = np.repeat(np.arange(len(asked)), [len(one.items) for one in asked])
    return np.bincount(of, apart) / np.bincount(of)


def logit(p: NDArray) -> NDArray:
    p = np.clip(p, TINY, 1 - TINY)
    return np.log(p / (1 - p))
