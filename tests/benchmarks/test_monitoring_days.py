"""The band of a monitored metric: its edges are where the drift test begins to raise an alarm."""

import numpy as np
import pytest

from benchmarks.monitoring_days import METRIC, DayBand, click_rate_day
from operations.monitoring import daily, drift

REFERENCE_DAYS, DAY, IMPRESSIONS = 28, 20_028, 2_000


def band_of_day(click_rate: float) -> DayBand:
    """A day with this rate after days that vary about 20 percent."""
    rng = np.random.default_rng(4)
    rate = np.append(rng.binomial(IMPRESSIONS, 0.2, REFERENCE_DAYS) / IMPRESSIONS, click_rate)
    stabilized = 2 * np.arcsin(np.sqrt((rate * IMPRESSIONS + 0.375) / (IMPRESSIONS + 0.75)))
    variance = np.full(len(rate), 1 / (IMPRESSIONS + 0.5))
    metric = drift.Scalar(METRIC, "outcomes", rate, stabilized, variance, 1.0)
    weekday = np.arange(DAY - REFERENCE_DAYS, DAY + 1) % 7
    statistics, _ = drift.drift_statistics([metric], weekday)
    return click_rate_day([daily.MetricSet(DAY, [metric])], statistics)


def test_the_band_is_around_the_same_weekdays() -> None:
    tested = band_of_day(0.2)
    assert tested.day == DAY
    assert tested.low < tested.expected < tested.high
    assert tested.expected == pytest.approx(0.2, abs=0.02)
    assert not tested.alarm


@pytest.mark.parametrize("edge", ["low", "high"])
def test_a_rate_raises_an_alarm_outside_the_band_only(edge: str) -> None:
    limit = getattr(band_of_day(0.2), edge)
    outwards = 0.001 if edge == "high" else -0.001
    assert band_of_day(limit + outwards).alarm
    assert not band_of_day(limit - outwards).alarm
