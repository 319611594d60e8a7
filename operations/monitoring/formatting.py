"""Findings and limits in a few words each, the same on the page and in the terminal."""

import time

import numpy as np

from data.examples.splits import DAY
from operations.monitoring.daily import DailyReport, ThresholdCheck
from operations.monitoring.drift import FALSE_ALARM_RATE, Distribution, DriftStatistic, Scalar


def format_date(day: int) -> str:
    """2024-03-31 for a day since 1970."""
    return time.strftime("%Y-%m-%d", time.gmtime(day * DAY))


def statistic_rows(report: DailyReport) -> list[dict[str, str]]:
    """A row for each finding, alarms first, then by how unusual it is."""
    known = {one.name: one for part in report.metric_sets for one in part.metrics}
    days = {one.name: part.day for part in report.metric_sets for one in part.metrics}
    alarms = {id(one) for one in report.alarms}
    said = sorted(report.statistics, key=lambda one: (id(one) not in alarms, one.p))
    return [
        {
            "figure": one.name,
            "group": one.group,
            "day": format_date(days[one.name]),
            "statistic": one.statistic,
            "value": f"{one.value:.3f}",
            "alarm at": f"{alarm_threshold(one, report):.3f}",
            "p": f"{one.p:.2g}",
            **dict(zip(("then", "usually"), describe_change(known[one.name]), strict=True)),
            "alarm": "ALARM" if id(one) in alarms else "",
        }
        for one in said
    ]


def alarm_threshold(one: DriftStatistic, report: DailyReport) -> float:
    """The value from which on a finding is an alarm."""
    return one.critical_value(FALSE_ALARM_RATE / len(report.statistics))


def describe_change(one: Distribution | Scalar) -> tuple[str, str]:
    """What a figure was on its day, and what it is usually: of a word the one whose share moved the most."""
    if isinstance(one, Scalar):
        return format(one.raw_value[-1], one.format_spec), format(
            float(np.nanmean(one.raw_value[:-1])), one.format_spec
        )
    now, usual = (counts / max(counts.sum(), 1) for counts in (one.counts[-1], one.counts[:-1].sum(0)))
    if one.ordered:
        middle = (one.labels[int(np.searchsorted(share.cumsum(), 0.5))] for share in (now, usual))
        then, usually = (f"median {label}" for label in middle)
        return then, usually
    place = int(np.abs(now - usual).argmax())
    return f"{one.labels[place]} {now[place]:.1%}", f"{usual[place]:.1%}"


def check_row(one: ThresholdCheck) -> dict[str, str]:
    """A row for a limit."""
    side = "above" if one.is_upper_bound else "below"
    return {
        "figure": one.name,
        "value": f"{one.value:.3g}{one.unit}",
        "alarm": f"{side} {one.threshold:.3g}{one.unit}",
        "": "ALARM" if one.alarm else "",
    }


def report_summary(report: DailyReport) -> str:
    """The day in a sentence."""
    names = [one.name for one in report.threshold_checks if one.alarm]
    names += dict.fromkeys(one.name for one in report.alarms)
    if names:
        return f"{len(names)} alarm{'s' * (len(names) > 1)}: {', '.join(names)}."
    if not report.statistics:
        return "The day cannot be judged."
    return f"No alarm: {len(report.statistics)} statistics are as on other days of that weekday."
