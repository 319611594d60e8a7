"""Statistics and limits as text, for the page and for the terminal."""

import time

import numpy as np

from operations.monitoring.daily import DailyReport, ThresholdCheck
from operations.monitoring.drift import FALSE_ALARM_RATE, Distribution, DriftStatistic, Scalar
from reporting.formatting import MINUS, format_duration, format_number
from serving.checkout import SECONDS_PER_DAY

SECONDS_PER_UNIT = {" days": SECONDS_PER_DAY, " h": 3600}  # units of limits that are ages
MIN_P_VALUE = 1e-4  # smaller p-values are printed as `<` this
LAST_BIN = "more"  # label of the values above the last edge


def format_date(day: int) -> str:
    """`2024-03-31` for a day since 1970."""
    return time.strftime("%Y-%m-%d", time.gmtime(day * SECONDS_PER_DAY))


def statistic_rows(report: DailyReport) -> list[dict[str, str]]:
    """Return a row per statistic. Alarms come first; alarms and others are each ordered by p-value."""
    metrics = {metric.name: metric for part in report.metric_sets for metric in part.metrics}
    days = {metric.name: part.day for part in report.metric_sets for metric in part.metrics}
    alarms = {id(statistic) for statistic in report.alarms}
    ordered = sorted(report.statistics, key=lambda statistic: (id(statistic) not in alarms, statistic.p))
    rows = []
    for statistic in ordered:
        on_day, reference = describe_change(metrics[statistic.name])
        rows.append(
            {
                "metric": statistic.name,
                "group": statistic.group,
                "day": format_date(days[statistic.name]),
                "statistic": statistic.statistic,
                "value": f"{statistic.value:.3f}",
                "alarm at": f"{alarm_threshold(statistic, report):.3f}",
                "p": _format_p(statistic.p),
                "on the day": on_day,
                "reference": reference,
                "alarm": "ALARM" if id(statistic) in alarms else "",
            }
        )
    return rows


def alarm_threshold(statistic: DriftStatistic, report: DailyReport) -> float:
    """Return the value at which a statistic raises an alarm."""
    return statistic.critical_value(FALSE_ALARM_RATE / len(report.statistics))


def describe_change(metric: Distribution | Scalar) -> tuple[str, str]:
    """Return two texts: the metric on its day and over the reference.

    For a distribution of categories, the texts give the category whose share changed most.
    """
    if isinstance(metric, Scalar):
        mean = float(np.nanmean(metric.raw_value[:-1]))
        return format(metric.raw_value[-1], metric.format_spec), format(mean, metric.format_spec)
    on_day, reference = (
        counts / max(counts.sum(), 1) for counts in (metric.counts[-1], metric.counts[:-1].sum(0))
    )
    if metric.ordered:
        return _median(metric, on_day), _median(metric, reference)
    category = int(np.abs(on_day - reference).argmax())
    return f"{metric.labels[category]} {on_day[category]:.1%}", f"{reference[category]:.1%}"


def check_row(check: ThresholdCheck) -> dict[str, str]:
    """Return the row of a limit."""
    side = "above" if check.is_upper_bound else "below"
    return {
        "check": check.name,
        "value": _quantity(check.value, check.unit),
        "limit": f"alarm {side} {_quantity(check.threshold, check.unit)}",
        "alarm": "ALARM" if check.alarm else "",
    }


def report_summary(report: DailyReport) -> str:
    """Return a sentence that sums up the day."""
    names = [check.name for check in report.threshold_checks if check.alarm]
    names += dict.fromkeys(statistic.name for statistic in report.alarms)
    if names:
        return f"{len(names)} alarm{'s' * (len(names) > 1)}: {', '.join(names)}."
    if not report.statistics:
        return "The day cannot be tested."
    return f"No alarm: {len(report.statistics)} statistics are as on other days of that weekday."


def version_warning(report: DailyReport) -> str | None:
    """Return a warning if another bundle than the monitored bundle answered on the day."""
    if not report.further_versions:
        return None
    only = (
        ""
        if report.monitored_version in report.bundle_versions
        else ", and the monitored bundle answered none"
    )
    return (
        f"Bundle {', '.join(report.further_versions)} answered slates of this day{only}. Ages, index recall "
        f"and inputs are of the monitored bundle, {report.monitored_version}."
    )


def alarm_lines(report: DailyReport) -> list[str]:
    """Return a line per alarm: the metric, the value on its day, and the limit or the reference."""
    lines = [
        f"{check['check']} is {check['value']} ({check['limit']})."
        for check in map(check_row, report.threshold_checks)
        if check["alarm"]
    ]
    for row in statistic_rows(report):
        if row["alarm"]:
            lines.append(
                f"{row['metric']}: {row['on the day']} on the day, {row['reference']} on the reference days "
                f"({row['statistic']} {row['value'].replace('-', MINUS)}, alarm at {row['alarm at']})."
            )
    return lines


def _median(metric: Distribution, share: np.ndarray) -> str:
    label = metric.labels[int(np.searchsorted(share.cumsum(), 0.5))]
    return f"median above {metric.labels[-2]}" if label == LAST_BIN else f"median {label}"


def _format_p(p: float) -> str:
    return f"< {format_number(MIN_P_VALUE)}" if p < MIN_P_VALUE else format_number(p, 2)


def _quantity(value: float, unit: str) -> str:
    if unit in SECONDS_PER_UNIT:
        return format_duration(value * SECONDS_PER_UNIT[unit])
    return format_number(value, 3) + unit
