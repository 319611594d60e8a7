"""Logged requests, rebuilt from the shop's tables, and how far their replay is from what was logged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.examples.splits import DAY
from operations.monitoring.logged_slates import AttributedLog
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.replay import score_requests
from serving import Checkout, Recommender
from serving.stores.base import Store, UserHistory

MAX_LOGIT_GAP = 1.0  # log-odds: what is further away, or no candidate at all, counts as much
MATCH_TOLERANCE = 0.01  # log-odds that rounding may make
MIN_PROBABILITY = 1e-6
MAX_CLOCK_SKEW = 300  # seconds by which clocks differ
MAX_EARLY_SECONDS = 28 * DAY  # by which a table may date a purchase too early

Perturbation = Callable[["LoggedRequest"], tuple[Checkout, UserHistory]]  # the request with another input


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that was logged with predictions."""

    checkout: Checkout
    history: UserHistory  # what should have been known of the user
    ts: int  # of the checkout
    previous_checkout: Checkout | None  # the one that its user was answered before
    item_rows: NDArray  # [k] rows of the items shown
    logged_probabilities: NDArray  # [k, 2] logged p(click) and p(purchase)
    purchased: NDArray  # [k] bool
    corrected_history: UserHistory  # the same, where the log knows better when something was bought


def sample_requests(
    log: AttributedLog, orders: OrderHistory, profiles: dict[str, dict[str, Any]], recommender: Recommender,
    store: Store | None, count: int, seed: int = 0,
) -> list[LoggedRequest]:  # fmt: skip
    """Up to `count` requests of the log's newer half, so that what led to them is in the log too: those that
    the recommender's version ranked, and whose order is known."""
    slates, shown, bundle = log.slates, log.impressions, recommender.bundle
    row = np.array([orders.order_row.get(order, -1) for order in slates.order_id.tolist()], np.int64)
    unsaid = np.bincount(shown.slate_row, np.isnan(shown.p_click), len(row)) > 0
    usable = (row >= 0) & ~unsaid & (slates.tier == "ranked") & (slates.bundle_version == bundle.version)
    usable &= slates.ts >= (slates.ts[0] + slates.ts[-1]) // 2
    last = _previous_slates(slates.user_id.tolist(), row)
    dated = correct_purchase_times(log, orders)
    first = np.searchsorted(shown.slate_row, np.arange(len(row) + 1))

    def checkout(slate: int) -> Checkout:
        profile = profiles.get(slates.user_id[slate])
        return orders.checkout(int(row[slate]), int(slates.ts[slate]), profile)

    asked = []
    for slate in np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:count]).tolist():
        here, user, ts = slice(first[slate], first[slate + 1]), slates.user_id[slate], int(slates.ts[slate])
        facts = orders.history_before(user, ts) if store is None or user is None else store.get(user)
        asked.append(
            LoggedRequest(
                checkout(slate),
                facts,
                ts,
                checkout(last[slate]) if last[slate] >= 0 else None,
                np.array(bundle.item_rows.lookup(shown.item_id[here].tolist()), np.int64),
                np.stack([shown.p_click[here], shown.p_purchase[here]], 1),
                np.isfinite(shown.purchase_delay[here]),
                dated.history_before(user, ts) if store is None else facts,
            )
        )
    return asked


def _previous_slates(users: list[str | None], row: NDArray) -> NDArray:
    """[n] the slate that the user of each slate was shown before, -1 for none whose order is known."""
    found = np.full(len(row), -1, np.int64)
    latest: dict[str, int] = {}
    for slate, user in enumerate(users):
        if user is not None and row[slate] >= 0:
            found[slate] = latest.get(user, -1)
            latest[user] = slate
    return found


def correct_purchase_times(log: AttributedLog, orders: OrderHistory) -> OrderHistory:
    """The orders with lines at the time at which the log saw them bought, where the table has the user buy
    the item earlier, and not then. An order that asked for a slate is dated by that, and what is older than
    the log stays."""
    at = orders.line_ts.copy()
    asked = [orders.order_row[order] for order in log.slates.order_id.tolist() if order in orders.order_row]
    sure = np.repeat(np.isin(np.arange(len(orders.ts)), asked), np.diff(orders.line_offsets))  # [L]
    sure |= at < log.slates.ts[0]
    bought = np.flatnonzero(np.isfinite(log.impressions.purchase_event_delay))
    slate = log.impressions.slate_row[bought]
    when = (log.slates.ts[slate] + log.impressions.purchase_event_delay[bought]).astype(np.int64)
    users, items = log.slates.user_id[slate].tolist(), log.impressions.item_id[bought].tolist()
    for user, item, came in zip(users, items, when.tolist(), strict=True):
        start, stop = orders.user_rows.get(user, (0, 0))
        lines = np.arange(orders.line_offsets[start], orders.line_offsets[stop])
        lines = lines[
            (orders.item_id[lines] == item) & (orders.line_ts[lines] <= came + MAX_CLOCK_SKEW) & ~sure[lines]
        ]
        if len(lines) and came - MAX_EARLY_SECONDS <= orders.line_ts[lines[-1]] < came - MAX_CLOCK_SKEW:
            at[lines[-1]] = came
    return orders._replace(line_ts=at, line_known_ts=np.maximum(orders.line_known_ts, at))


def logit_differences(
    recommender: Recommender, asked: Sequence[LoggedRequest], variant: Perturbation | None = None
) -> NDArray:
    """[Σk, 2] log-odds of the replay less those that were logged, ±CAP at most, NaN for no candidate."""
    requests = [(one.checkout, one.history) if variant is None else variant(one) for one in asked]
    parts = [
        logit(scores.lookup(one.item_rows)[:, :2]) - logit(one.logged_probabilities)
        for one, scores in zip(asked, score_requests(recommender, requests), strict=True)
    ]
    return np.clip(np.concatenate(parts), -MAX_LOGIT_GAP, MAX_LOGIT_GAP)


def request_gaps(difference: NDArray, asked: Sequence[LoggedRequest]) -> NDArray:
    """[n] mean distance by request, of `differences`."""
    apart = np.nan_to_num(np.abs(difference), nan=MAX_LOGIT_GAP).mean(1)
    of = np.repeat(np.arange(len(asked)), [len(one.item_rows) for one in asked])
    return np.bincount(of, apart) / np.bincount(of)


def logit(p: NDArray) -> NDArray:
    p = np.clip(p, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.log(p / (1 - p))
