"""What Prometheus reads of a day: a file for node_exporter's textfile collector
(operations/monitoring/alerts.yml)."""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from data.examples.splits import DAY
from operations.monitoring import formatting
from operations.monitoring.daily import DailyReport
from operations.monitoring.live_calibration import CalibrationRatio


def build_registry(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> CollectorRegistry:
    """The gauges of a report. Figures and limits are labels, so that a rule covers those to come."""
    own = CollectorRegistry()

    def gauge(name: str, means: str, *labels: str) -> Gauge:
        return Gauge(f"sextet_monitoring_{name}", means, labels, registry=own)

    gauge("day_seconds", "End of the day that was looked at, Unix seconds").set((report.day + 1) * DAY)
    gauge("exit_code", "0 fine, 1 alarm, 2 cannot be judged").set(report.exit_code)
    gauge("slates", "Slates of the day").set(report.slates)
    value = gauge("drift", "Drift from other days of that weekday", "figure", "statistic")
    limit = gauge("drift_limit", "Where an alarm begins", "figure", "statistic")
    alarm = gauge("alarm", "1 for a figure that raised an alarm", "figure")
    for one in report.statistics:
        value.labels(one.name, one.statistic).set(abs(one.value))
        limit.labels(one.name, one.statistic).set(formatting.alarm_threshold(one, report))
        alarm.labels(one.name).set(0)
    for one in report.alarms:
        alarm.labels(one.name).set(1)
    level = gauge("figure", "Ages, recall of the index and other figures with a fixed limit", "figure")
    for fixed in report.threshold_checks:
        level.labels(fixed.name).set(fixed.value)
        alarm.labels(fixed.name).set(fixed.alarm)
    ratio = gauge("calibration", "Observed over predicted, with its 95 % interval", "head", "bound")
    for head in calibrations:
        for bound, number in (("ratio", head.ratio), ("low", head.low), ("high", head.high)):
            ratio.labels(head.head, bound).set(number)
    return own


def write_metrics(report: DailyReport, calibrations: Sequence[CalibrationRatio], file: Path) -> None:
    """Write the file in one step, so that no half of it is read. Raises OSError."""
    write_to_textfile(str(file), build_registry(report, calibrations))
