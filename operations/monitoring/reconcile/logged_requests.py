"""Rebuilds logged requests from the shop's tables, and measures how far their replay is from the log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from operations.monitoring.logged_slates import AttributedLog
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.replay import score_requests
from serving import Checkout, Recommender
from serving.checkout import MAX_CLOCK_SKEW, SECONDS_PER_DAY
from serving.stores.base import Store, UserHistory

MAX_LOGIT_GAP = 1.0  # log-odds at which gaps are clipped; items that are no candidates have this gap
MATCH_TOLERANCE = 0.01  # log-odds that rounding can cause
MIN_PROBABILITY = 1e-6
MAX_EARLY_SECONDS = 28 * SECONDS_PER_DAY  # the most by which a table may date a purchase too early

Perturbation = Callable[["LoggedRequest"], tuple[Checkout, UserHistory]]  # a request with one input changed


@dataclass(frozen=True, slots=True)
class RequestSources:
    """The data that requests are rebuilt from."""

    orders: OrderHistory
    profiles: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # by user
    store: Store | None = None  # without one, histories come from the orders

    def history(self, user_id: str | None, ts: int) -> UserHistory:
        """The user's history before an instant."""
        if self.store is None or user_id is None:
            return self.orders.history_before(user_id, ts)
        return self.store.get(user_id)


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that was logged with predictions."""

    checkout: Checkout
    history: UserHistory  # the history that serving should have known
    ts: int  # of the checkout
    previous_checkout: Checkout | None  # of the user's previous slate
    item_rows: NDArray  # [k] rows of the slate's items
    logged_probabilities: NDArray  # [k, H] logged p(click), p(purchase), as far as the bundle predicts them
    purchased: NDArray  # [k] bool
    corrected_history: UserHistory  # `history` with purchase times by the log


def sample_requests(
    log: AttributedLog, sources: RequestSources, recommender: Recommender, count: int, seed: int = 0
) -> list[LoggedRequest]:
    """Return up to `count` ranked requests of the recommender's version whose order is known.

    The requests are from the newer half of the log, so that the log also has the users' earlier slates.
    """
    slates, impressions, bundle = log.slates, log.impressions, recommender.bundle
    orders = sources.orders
    order_row = np.array([orders.order_row.get(order, -1) for order in slates.order_id.tolist()], np.int64)
    probabilities = np.stack([impressions.p_click, impressions.p_purchase], 1)[:, task_columns(recommender)]
    is_missing = np.isnan(probabilities).any(1)
    lacks_prediction = np.bincount(impressions.slate_row, is_missing, len(order_row)) > 0
    usable = (order_row >= 0) & ~lacks_prediction & (probabilities.shape[1] > 0)
    usable &= (slates.tier == "ranked") & (slates.bundle_version == bundle.version)
    usable &= slates.ts >= (slates.ts[0] + slates.ts[-1]) // 2
    previous_slate = _previous_slates(slates.user_id.tolist(), order_row)
    corrected_orders = correct_purchase_times(log, orders)
    first = np.searchsorted(impressions.slate_row, np.arange(len(order_row) + 1))

    def checkout(slate: int) -> Checkout:
        profile = sources.profiles.get(slates.user_id[slate])
        return orders.checkout(int(order_row[slate]), int(slates.ts[slate]), profile)

    sample = np.random.default_rng(seed).permutation(np.flatnonzero(usable))[:count]
    requests = []
    for slate in np.sort(sample).tolist():
        items = slice(first[slate], first[slate + 1])
        user, ts, previous = slates.user_id[slate], int(slates.ts[slate]), previous_slate[slate]
        history = sources.history(user, ts)
        requests.append(
            LoggedRequest(
                checkout=checkout(slate),
                history=history,
                ts=ts,
                previous_checkout=checkout(previous) if previous >= 0 else None,
                item_rows=np.array(bundle.item_rows.lookup(impressions.item_id[items].tolist()), np.int64),
                logged_probabilities=probabilities[items],
                purchased=np.isfinite(impressions.purchase_delay[items]),
                corrected_history=(
                    corrected_orders.history_before(user, ts) if sources.store is None else history
                ),
            )
        )
    return requests


def task_columns(recommender: Recommender) -> list[int]:
    """Returns the columns that the bundle predicts: click (0), purchase (1), or both."""
    rows = recommender.task_rows
    return [column for column, factors in enumerate((rows.click, rows.purchase)) if factors is not None]


def _previous_slates(users: list[str | None], order_row: NDArray) -> NDArray:
    """Returns, for each slate, the row of the user's previous slate: [n].

    It is -1 if no previous slate has a known order.
    """
    previous = np.full(len(order_row), -1, np.int64)
    latest: dict[str, int] = {}
    for slate, user in enumerate(users):
        if user is not None and order_row[slate] >= 0:
            previous[slate] = latest.get(user, -1)
            latest[user] = slate
    return previous


def correct_purchase_times(log: AttributedLog, orders: OrderHistory) -> OrderHistory:
    """Return the orders with purchase times by the log's purchase events.

    A line is corrected if the table dates it before the purchase event, and has no line of this item at the
    time of the event. Orders with a slate, and lines older than the log, keep their times.
    """
    line_ts = orders.line_ts.copy()
    logged_rows = [
        orders.order_row[order] for order in log.slates.order_id.tolist() if order in orders.order_row
    ]
    is_logged = np.isin(np.arange(len(orders.ts)), logged_rows)
    is_fixed = np.repeat(is_logged, np.diff(orders.line_offsets))  # [L]
    is_fixed |= line_ts < log.slates.ts[0]
    purchases = np.flatnonzero(np.isfinite(log.impressions.purchase_event_delay))
    slate = log.impressions.slate_row[purchases]
    event_ts = (log.slates.ts[slate] + log.impressions.purchase_event_delay[purchases]).astype(np.int64)
    users, items = log.slates.user_id[slate].tolist(), log.impressions.item_id[purchases].tolist()
    for user, item, ts in zip(users, items, event_ts.tolist(), strict=True):
        start, stop = orders.user_rows.get(user, (0, 0))
        lines = np.arange(orders.line_offsets[start], orders.line_offsets[stop])
        is_item = orders.item_id[lines] == item
        lines = lines[is_item & (orders.line_ts[lines] <= ts + MAX_CLOCK_SKEW) & ~is_fixed[lines]]
        if len(lines) and ts - MAX_EARLY_SECONDS <= orders.line_ts[lines[-1]] < ts - MAX_CLOCK_SKEW:
            line_ts[lines[-1]] = ts
    return orders._replace(line_ts=line_ts, line_known_ts=np.maximum(orders.line_known_ts, line_ts))


def logit_differences(
    recommender: Recommender, requests: Sequence[LoggedRequest], perturbation: Perturbation | None = None
) -> NDArray:
    """Returns log-odds of the replay minus logged log-odds: [Σk, H], clipped to ±MAX_LOGIT_GAP.

    NaN for items that are not candidates in the replay.
    """
    columns = task_columns(recommender)
    inputs = [
        (request.checkout, request.history) if perturbation is None else perturbation(request)
        for request in requests
    ]
    differences = [
        logit(scores.lookup(request.item_rows)[:, columns]) - logit(request.logged_probabilities)
        for request, scores in zip(requests, score_requests(recommender, inputs), strict=True)
    ]
    return np.clip(np.concatenate(differences), -MAX_LOGIT_GAP, MAX_LOGIT_GAP)


def request_gaps(differences: NDArray, requests: Sequence[LoggedRequest]) -> NDArray:
    """Returns the mean absolute difference of log-odds in each request: [n]."""
    gaps = np.nan_to_num(np.abs(differences), nan=MAX_LOGIT_GAP).mean(1)
    request_row = np.repeat(np.arange(len(requests)), [len(request.item_rows) for request in requests])
    return np.bincount(request_row, gaps) / np.bincount(request_row)


def logit(p: NDArray) -> NDArray:
    p = np.clip(p, MIN_PROBABILITY, 1 - MIN_PROBABILITY)
    return np.log(p / (1 - p))
