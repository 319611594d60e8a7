"""A day's results for Prometheus: a file for node_exporter's textfile collector.

operations/monitoring/alerts.yml has the rules.
"""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from operations.monitoring import formatting
from operations.monitoring.daily import DailyReport
from operations.monitoring.live_calibration import CalibrationRatio
from serving.checkout import SECONDS_PER_DAY


def build_registry(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> CollectorRegistry:
    """Return the gauges of a report.

    The metric's name is a label, so that one alert rule covers all metrics.
    """
    registry = CollectorRegistry()

    def gauge(name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"sextet_monitoring_{name}", description, labels, registry=registry)

    gauge("day_end_timestamp_seconds", "End of the tested day, Unix seconds").set(
        (report.day + 1) * SECONDS_PER_DAY
    )
    gauge("exit_code", "0 no alarm, 1 alarm, 2 not tested").set(report.exit_code)
    gauge("slates", "Slates of the day").set(report.slates)
    drift = gauge("drift", "Drift from the same weekdays of the reference", "metric", "statistic")
    limit = gauge("drift_limit", "Drift at which an alarm begins", "metric", "statistic")
    alarm = gauge("alarm", "1 for a metric that raises an alarm", "metric")
    for statistic in report.statistics:
        drift.labels(statistic.name, statistic.statistic).set(abs(statistic.value))
        limit.labels(statistic.name, statistic.statistic).set(formatting.alarm_threshold(statistic, report))
        alarm.labels(statistic.name).set(0)
    for statistic in report.alarms:
        alarm.labels(statistic.name).set(1)
    check_value = gauge("check_value", "Ages, index recall and other values with a fixed limit", "metric")
    for check in report.threshold_checks:
        check_value.labels(check.name).set(check.value)
        alarm.labels(check.name).set(check.alarm)
    ratio = gauge("calibration", "Observed over predicted, with its 95 % interval", "task", "bound")
    for calibration in calibrations:
        bounds = {"ratio": calibration.ratio, "low": calibration.low, "high": calibration.high}
        for bound, value in bounds.items():
            ratio.labels(calibration.task, bound).set(value)
    return registry


def write_metrics(report: DailyReport, calibrations: Sequence[CalibrationRatio], file: Path) -> None:
    """Write a report's gauges to a file atomically. Raises OSError."""
    write_to_textfile(str(file), build_registry(report, calibrations))
