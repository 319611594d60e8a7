"""A day against the weeks before it: `python -m operations.monitoring daily`.

Drift is judged by operations/monitoring/drift.py. Beside it stand limits: ages, the recall of the index, and
the share of buyers whose checkout the store does not know.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data.examples.splits import DAY
from operations.monitoring import daily_metrics as watched
from operations.monitoring import drift
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.replay import index_recall
from serving import Recommender
from serving.storage.bundle import Bundle
from serving.stores.base import Store

MAX_BUNDLE_AGE_DAYS = 14.0  # days since the end of the data that a bundle knows
MAX_EVENT_AGE_HOURS = 24.0  # hours since the newest slate or click, at the end of the day
MAX_MISSING_BUYER_SHARE = 0.05  # of the day's buyers may be missing in the store
MAX_RECALL_LOSS = 0.02  # of its recall when exported that the index may lose
SAMPLE_SIZE = 200  # requests and users that are looked at


class ThresholdCheck(NamedTuple):
    """A figure with a fixed limit."""

    name: str
    value: float
    threshold: float
    is_upper_bound: bool  # whether the alarm is above the limit, or below
    unit: str = ""

    @property
    def alarm(self) -> bool:
        return self.value > self.threshold if self.is_upper_bound else self.value < self.threshold


class MetricSet(NamedTuple):
    """Figures that are judged together, as of one day."""

    day: int  # days since 1970; outcomes are of the last day that is ripe
    metrics: list[drift.Distribution | drift.Scalar]


class DailyReport(NamedTuple):
    """All that is said of a day."""

    day: int
    reference_days: int
    metric_sets: list[MetricSet]
    statistics: list[drift.DriftStatistic]
    alarms: list[drift.DriftStatistic]
    threshold_checks: list[ThresholdCheck]
    untested: list[str]  # a line each, with the reason
    slates: int
    bundle_versions: tuple[str, ...]  # of the bundles that answered on the day

    @property
    def exit_code(self) -> int:
        """The exit code: 1 for any alarm, 2 where nothing could be judged, else 0."""
        if self.alarms or any(limit.alarm for limit in self.threshold_checks):
            return 1
        return 0 if self.statistics else 2


def daily_report(
    log: AttributedLog,
    orders: OrderHistory | None,
    recommender: Recommender,
    windows: AttributionWindows,
    day: int,
    reference_days: int = 28,
    store: Store | None = None,
    max_bundle_age: float = MAX_BUNDLE_AGE_DAYS,
    max_event_age: float = MAX_EVENT_AGE_HOURS,
) -> DailyReport:
    """The report on a day. `log` and `orders` hold nothing of later days, but what came of earlier ones."""
    bundle, end = recommender.bundle, (day + 1) * DAY
    parts = _metric_sets(log, orders, bundle, windows, day, reference_days)
    found: list[drift.DriftStatistic] = []
    unjudged = []
    for part in parts:
        said, without = drift.drift_statistics(
            part.metrics, np.arange(part.day - reference_days, part.day + 1) % 7
        )
        found += said
        unjudged += [
            f"{name}: fewer than {drift.MIN_REFERENCE_DAYS} earlier days of its weekday" for name in without
        ]
    if orders is None:
        unjudged.append("inputs, index recall: no --orders")
    limits = [
        ThresholdCheck("age of the bundle's data", (end - bundle.manifest["data"]["window"]["end"]) / DAY, max_bundle_age,
            True, " days"),
    ]  # fmt: skip
    for kind, name in (("impression", "age of the newest slate"), ("click", "age of the newest click")):
        if kind in log.newest_ts:
            limits.append(ThresholdCheck(name, (end - log.newest_ts[kind]) / 3600, max_event_age, True, " h"))
    if orders is not None:
        limits += _replay_checks(orders, recommender, store, day)
    today = log.slates.ts // DAY == day
    return DailyReport(
        day,
        reference_days,
        parts,
        found,
        drift.alarms(found),
        limits,
        unjudged,
        int(today.sum()),
        tuple(np.unique(log.slates.bundle_version[today].astype(str)).tolist()),
    )


def first_required_day(windows: AttributionWindows, day: int, reference: int) -> int:
    """The first day that a report reads: outcomes need the longest."""
    return day - reference - max(maturity_days(windows.click), maturity_days(windows.purchase))


def _metric_sets(
    log: AttributedLog,
    orders: OrderHistory | None,
    bundle: Bundle,
    windows: AttributionWindows,
    day: int,
    reference: int,
) -> list[MetricSet]:
    def part(last: int, make: Callable[[range], list[drift.Distribution | drift.Scalar]]) -> MetricSet:
        return MetricSet(last, make(range(last - reference, last + 1)))

    parts = [] if orders is None else [part(day, lambda days: watched.input_metrics(orders, bundle, days))]
    parts.append(
        part(day, lambda days: watched.score_metrics(log, days) + watched.slate_metrics(log, bundle, days))
    )
    parts.append(part(day - maturity_days(windows.click), lambda days: watched.click_metrics(log, days)))
    parts.append(
        part(day - maturity_days(windows.purchase), lambda days: watched.purchase_metrics(log, days))
    )
    return parts


def maturity_days(window: int | None) -> int:
    """Days until all slates of a day have their outcomes; a horizon until the next order is taken as 28."""
    return 28 if window is None else math.ceil(window / DAY)


def _replay_checks(
    orders: OrderHistory, recommender: Recommender, store: Store | None, day: int
) -> list[ThresholdCheck]:
    """Limits that take the day's own requests: a sample of them, the same for the same day."""
    today = np.flatnonzero(orders.ts // DAY == day)
    if not len(today):
        return []
    some = np.random.default_rng(day).permutation(today)[:SAMPLE_SIZE].tolist()
    requests, missing = [], []
    for row in some:
        user, ts = orders.user_id[row], int(orders.ts[row])
        facts = orders.history_before(user, ts) if store is None else store.get(user)
        requests.append((orders.checkout(row), facts))
        missing.append(not len(facts.ts) or int(facts.ts[-1]) < ts)
    exported = float(recommender.bundle.manifest["index"]["recall"])
    found = [
        ThresholdCheck(
            "index recall",
            float(index_recall(recommender, requests).mean()),
            exported - MAX_RECALL_LOSS,
            False,
        )
    ]
    if store is not None:
        found.append(
            ThresholdCheck(
                "buyers missing in the store", float(np.mean(missing)), MAX_MISSING_BUYER_SHARE, True
            )
        )
    return found
