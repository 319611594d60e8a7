"""The daily report: tests for drift against a reference window, and checks of fixed limits.

operations/monitoring/drift.py tests the metrics of daily_metrics.py. Fixed limits apply to ages, to index
recall, and to the share of buyers whose checkout is missing from the store.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from operations.monitoring import daily_metrics, drift
from operations.monitoring.daily_metrics import DailyMetric
from operations.monitoring.logged_slates import AttributedLog, AttributionWindows
from operations.monitoring.past_checkouts import OrderHistory
from operations.monitoring.replay import index_recall
from serving import Recommender
from serving.checkout import SECONDS_PER_DAY
from serving.storage.bundle import Bundle
from serving.stores.base import Store

MAX_MISSING_BUYER_SHARE = 0.05  # of the day's buyers may be missing from the store
MAX_RECALL_LOSS = 0.02  # least share of the exported index recall
SAMPLE_SIZE = 200  # checkouts that are replayed
NEXT_ORDER_MATURITY_DAYS = 28  # where the horizon is the next order


@dataclass(frozen=True)
class DailyReportConfig:
    """The reference window and the age limits."""

    reference_days: int = 28
    max_bundle_age_days: float = 14.0  # since the end of the bundle's data
    max_event_age_hours: float = 24.0  # since the newest slate or click, at the end of the day


DEFAULT_CONFIG = DailyReportConfig()


class ThresholdCheck(NamedTuple):
    """A value with a fixed limit."""

    name: str
    value: float
    threshold: float
    is_upper_bound: bool  # True: alarm above the threshold; False: below
    unit: str = ""

    @property
    def alarm(self) -> bool:
        return self.value > self.threshold if self.is_upper_bound else self.value < self.threshold


class MetricSet(NamedTuple):
    """Metrics that are tested on the same day."""

    day: int  # days since 1970; for outcomes the last day with complete outcomes
    metrics: list[DailyMetric]


class DailyReport(NamedTuple):
    """The results of a day."""

    day: int
    reference_days: int
    metric_sets: list[MetricSet]
    statistics: list[drift.DriftStatistic]
    alarms: list[drift.DriftStatistic]
    threshold_checks: list[ThresholdCheck]
    untested: list[str]  # a line each, with the reason
    slates: int
    bundle_versions: tuple[str, ...]  # bundle versions that answered on the day
    monitored_version: str  # version of the monitored bundle

    @property
    def further_versions(self) -> list[str]:
        """The bundle versions that answered on the day, except the monitored version."""
        return [version for version in self.bundle_versions if version not in ("", self.monitored_version)]

    @property
    def exit_code(self) -> int:
        """1 for any alarm, 2 if nothing could be tested, else 0."""
        if self.alarms or any(check.alarm for check in self.threshold_checks):
            return 1
        return 0 if self.statistics else 2


def daily_report(
    log: AttributedLog,
    orders: OrderHistory | None,
    recommender: Recommender,
    windows: AttributionWindows,
    day: int,
    store: Store | None = None,
    config: DailyReportConfig = DEFAULT_CONFIG,
) -> DailyReport:
    """Return the report on a day. `log` and `orders` end with the day."""
    metric_sets = _metric_sets(log, orders, recommender.bundle, windows, day, config.reference_days)
    statistics: list[drift.DriftStatistic] = []
    untested = []
    for part in metric_sets:
        weekday = np.arange(part.day - config.reference_days, part.day + 1) % 7
        part_statistics, part_untested = drift.drift_statistics(part.metrics, weekday)
        statistics += part_statistics
        untested += [
            f"{name}: fewer than {drift.MIN_REFERENCE_DAYS} earlier days of its weekday"
            for name in part_untested
        ]
    if orders is None:
        untested.append("inputs, index recall: no --orders")
    checks = _age_checks(log, recommender.bundle, day, config)
    if orders is not None:
        checks += _replay_checks(orders, recommender, store, day)
    on_day = log.slates.ts // SECONDS_PER_DAY == day
    return DailyReport(
        day=day,
        reference_days=config.reference_days,
        metric_sets=metric_sets,
        statistics=statistics,
        alarms=drift.alarms(statistics),
        threshold_checks=checks,
        untested=untested,
        slates=int(on_day.sum()),
        bundle_versions=tuple(np.unique(log.slates.bundle_version[on_day].astype(str)).tolist()),
        monitored_version=recommender.bundle.version,
    )


def first_required_day(windows: AttributionWindows, day: int, reference_days: int) -> int:
    """The first day that a report reads. Outcomes need the earliest days."""
    return day - reference_days - max(maturity_days(window) for window in outcome_windows(windows).values())


def outcome_windows(windows: AttributionWindows) -> dict[str, int | None]:
    """Returns task → the seconds until its outcome is known; None if the next order decides it."""
    further = {task.name: task.window for task in windows.further}
    return {"click": windows.click, "purchase": windows.purchase, **further}


def maturity_days(window: int | None) -> int:
    """Days until the outcomes of a day's slates are complete. The window None ends with the next order."""
    return NEXT_ORDER_MATURITY_DAYS if window is None else math.ceil(window / SECONDS_PER_DAY)


def _metric_sets(
    log: AttributedLog,
    orders: OrderHistory | None,
    bundle: Bundle,
    windows: AttributionWindows,
    day: int,
    reference_days: int,
) -> list[MetricSet]:
    def metric_set(last_day: int, compute: Callable[[range], list[DailyMetric]]) -> MetricSet:
        return MetricSet(last_day, compute(range(last_day - reference_days, last_day + 1)))

    sets = []
    if orders is not None:
        sets.append(metric_set(day, lambda days: daily_metrics.input_metrics(orders, bundle, days)))

    def log_metrics(days: range) -> list[DailyMetric]:
        return daily_metrics.score_metrics(log, days) + daily_metrics.slate_metrics(log, bundle, days)

    outcome_days = {task: day - maturity_days(window) for task, window in outcome_windows(windows).items()}
    return [
        *sets,
        metric_set(day, log_metrics),
        metric_set(outcome_days["click"], lambda days: daily_metrics.click_metrics(log, days)),
        metric_set(outcome_days["purchase"], lambda days: daily_metrics.purchase_metrics(log, days)),
        *(
            metric_set(
                outcome_days[task.name],
                lambda days, name=task.name: daily_metrics.feedback_metrics(log, name, days),  # type: ignore[misc]
            )
            for task in windows.further
        ),
    ]


def _age_checks(
    log: AttributedLog, bundle: Bundle, day: int, config: DailyReportConfig
) -> list[ThresholdCheck]:
    """Checks the ages of bundle and events at the end of the day."""
    end = (day + 1) * SECONDS_PER_DAY
    bundle_age = (end - bundle.manifest["data"]["window"]["end"]) / SECONDS_PER_DAY
    checks = [
        ThresholdCheck("age of the bundle's data", bundle_age, config.max_bundle_age_days, True, " days")
    ]
    for kind, name in (("impression", "age of the newest slate"), ("click", "age of the newest click")):
        if kind in log.newest_ts:
            age = (end - log.newest_ts[kind]) / 3600
            checks.append(ThresholdCheck(name, age, config.max_event_age_hours, True, " h"))
    return checks


def _replay_checks(
    orders: OrderHistory, recommender: Recommender, store: Store | None, day: int
) -> list[ThresholdCheck]:
    """Checks on a sample of the day's checkouts. The same day gives the same sample."""
    rows = np.flatnonzero(orders.ts // SECONDS_PER_DAY == day)
    if not len(rows):
        return []
    requests, is_missing = [], []
    for row in np.random.default_rng(day).permutation(rows)[:SAMPLE_SIZE].tolist():
        user, ts = orders.user_id[row], int(orders.ts[row])
        history = orders.history_before(user, ts) if store is None else store.get(user)
        requests.append((orders.checkout(row), history))
        is_missing.append(not len(history.ts) or int(history.ts[-1]) < ts)
    exported_recall = float(recommender.bundle.manifest["index"]["recall"])
    recall = float(index_recall(recommender, requests).mean())
    checks = [ThresholdCheck("index recall", recall, exported_recall - MAX_RECALL_LOSS, False)]
    if store is not None:
        missing_share = float(np.mean(is_missing))
        checks.append(
            ThresholdCheck("buyers missing from the store", missing_share, MAX_MISSING_BUYER_SHARE, True)
        )
    return checks
