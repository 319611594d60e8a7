"""Measures the click rate day by day with its reference band, and finds the days that raise an alarm.

    python -m benchmarks.monitoring_days            14 quiet days, then 4 with 20 % fewer clicks
    python -m benchmarks.monitoring_days 28         more quiet days

The shop and the simulated log are those of `python -m benchmarks.monitoring`. A value outside the band raises
an alarm: the band's edges are the critical values of the drift test (operations/monitoring/drift.py). Writes
`reports/monitoring_days.json`, a row per day.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks.commands import REPORTS, Row, run_benchmark
from benchmarks.monitoring import (
    ORDERS_PER_DAY,
    REFERENCE_DAYS,
    WARM_UP_DAYS,
    build_bundle,
    load_recommender,
    read_live_log,
    write_live_log,
)
from benchmarks.simulated_live_log import DayConfig, LiveShop, LogDays
from operations.monitoring import daily, drift
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json

REPORT = REPORTS / "monitoring_days.json"
QUIET_DAYS, SHIFTED_DAYS, CLICK_FACTOR = 14, 4, 0.8
METRIC = "click rate"


@dataclass(frozen=True, kw_only=True)
class MonitoringDaysOptions:
    """Measure the click rate by day with its reference band, and list the days that raise an alarm."""

    quiet_days: int = argument("days before the clicks fall", default=QUIET_DAYS)


class DayBand(NamedTuple):
    """The click rate of a day, and the band of values that raise no alarm."""

    day: int  # days since 1970
    value: float
    expected: float
    low: float
    high: float
    alarm: bool


def benchmark(options: MonitoringDaysOptions) -> int:
    """Simulate the days, test each, and write the rows."""
    recommender, first_day = load_recommender(build_bundle())
    n_quiet = WARM_UP_DAYS + options.quiet_days
    n_days = n_quiet + SHIFTED_DAYS + 1  # clicks are complete a day later
    shop = LiveShop(recommender.bundle, ORDERS_PER_DAY, seed=2)
    folder = write_live_log(shop, LogDays(first_day, n_days, n_quiet), DayConfig(click_factor=CLICK_FACTOR))
    log = read_live_log(recommender, folder, first_day + n_days)
    config = daily.DailyReportConfig(REFERENCE_DAYS)
    rows: list[Row] = []
    for day in tqdm(range(first_day + WARM_UP_DAYS + 1, first_day + n_days), desc="days"):
        report = daily.daily_report(log.slates, log.orders, recommender, log.windows, day, config=config)
        tested = click_rate_day(report.metric_sets, report.statistics)
        number = tested.day - first_day - WARM_UP_DAYS + 1
        rows.append(tested._asdict() | {"day": number, "shifted": number > options.quiet_days})
    write_json(REPORT, rows)
    print(text_table(rows))
    print(f"written: {REPORT}")
    return 0


def click_rate_day(
    metric_sets: Sequence[daily.MetricSet], statistics: Sequence[drift.DriftStatistic]
) -> DayBand:
    """The click rate that a daily report tested, with its band."""
    ((day, metric),) = (
        (part.day, metric) for part in metric_sets for metric in part.metrics if metric.name == METRIC
    )
    assert isinstance(metric, drift.Scalar)
    (statistic,) = (each for each in statistics if each.name == METRIC)
    value = metric.stabilized_value
    weekday = np.arange(day - len(value) + 1, day + 1) % 7
    reference = drift.reference_mask(weekday, np.isfinite(value))[-1]
    expected = float(np.average(value[reference], weights=1 / metric.variance[reference]))
    unit = abs((value[-1] - expected) / statistic.value)  # of the test's z, on the stabilized scale
    width = unit * statistic.critical_value(drift.FALSE_ALARM_RATE / len(statistics))
    low, high = _to_share(expected - width), _to_share(expected + width)
    is_alarm = statistic in drift.alarms(statistics)
    return DayBand(day, float(metric.raw_value[-1]), _to_share(expected), low, high, is_alarm)


def _to_share(stabilized: float) -> float:
    """The share with the given stabilized value 2 asin √share (operations/monitoring/daily_metrics.py)."""
    return math.sin(min(max(stabilized / 2, 0.0), math.pi / 2)) ** 2


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.monitoring_days", benchmark))
