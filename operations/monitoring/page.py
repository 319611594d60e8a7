"""The page of a daily report: the values for the template of `reporting`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from operations.monitoring import formatting
from operations.monitoring.daily import DailyReport
from operations.monitoring.drift import FALSE_ALARM_RATE, Distribution, Scalar
from operations.monitoring.live_calibration import CalibrationRatio
from reporting.charts import HALF_WIDTH, Chart, linear_axis
from reporting.dot_plot import Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Status, Table, notices
from reporting.formatting import format_count, format_date, format_dates
from reporting.render import render
from serving.checkout import SECONDS_PER_DAY

DAY_LEGEND = (("blue", "the day"), ("grey", "the reference days"))
STATISTIC_TEXTS = {
    "day": "the tested day; outcomes are of the last day with complete outcomes",
    "statistic": "PSI and KS compare distributions; z is in standard deviations of quiet days",
    "p": "probability of such a value on a quiet day",
    "on the day": "the median, the value, or the category whose share changed most",
}
STATISTIC_NUMBERS = ("day", "value", "alarm at", "p")


def daily_page(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> str:
    """Return the page of a daily report."""
    alarms = {statistic.name for statistic in report.alarms}
    changed = [
        metric
        for part in report.metric_sets
        for metric in part.metrics
        if metric.name in alarms and isinstance(metric, Distribution)
    ]
    scalars = [
        (metric, part.day)
        for part in report.metric_sets
        for metric in part.metrics
        if isinstance(metric, Scalar) and np.isfinite(metric.raw_value).any()
    ]
    return render(
        "daily_report.html",
        _head(report, calibrations),
        slates=report.slates,
        reference_days=report.reference_days,
        days_per_false_alarm=round(1 / FALSE_ALARM_RATE),
        limits=_text_table([formatting.check_row(check) for check in report.threshold_checks], ("value",)),
        drift=_text_table(formatting.statistic_rows(report), STATISTIC_NUMBERS, STATISTIC_TEXTS),
        untested=report.untested,
        distributions=[_distribution_figure(metric) for metric in changed],
        calibration=_calibration_section(calibrations) if calibrations else None,
        by_day=[
            Figure(partial(_scalar_chart, metric, day, metric.name in alarms), width=HALF_WIDTH)
            for metric, day in sorted(scalars, key=lambda pair: pair[0].name not in alarms)
        ],
    )


def _head(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> Head:
    warning, end = formatting.version_warning(report), report.day * SECONDS_PER_DAY
    checks = [formatting.check_row(check) for check in report.threshold_checks]
    figures = [KeyFigure("Slates of the day", format_count(report.slates))]
    figures += [
        KeyFigure(
            f"{calibration.task.capitalize()}: observed over predicted, on {_date(calibration.day)}",
            f"{calibration.ratio:.3f}",
            f"95% interval {calibration.low:.3f} to {calibration.high:.3f}; 1 is right on average",
        )
        for calibration in calibrations
    ]
    figures += [
        KeyFigure(
            check["check"].capitalize(),
            check["value"],
            check["limit"],
            "Alarm" if check["alarm"] else "No alarm",
            "alarm" if check["alarm"] else "",
        )
        for check in checks
    ]
    statuses: tuple[Status, ...] = ("good", "bad", "")
    return Head(
        title=f"Monitoring: {_date(report.day)}",
        answer=formatting.report_summary(report),
        status=statuses[report.exit_code],
        notices=notices(formatting.alarm_lines(report), [warning] if warning else []),
        figures=figures,
        source=[
            ("Log", f"slates until the end of {_date(report.day)}"),
            ("Reference", format_dates(end - report.reference_days * SECONDS_PER_DAY, end - 1)),
            ("Monitored bundle", report.monitored_version),
            ("Bundles of the log", ", ".join(filter(None, report.bundle_versions)) or "none"),
        ],
    )


def _date(day: int) -> str:
    return format_date(day * SECONDS_PER_DAY)


def _text_table(
    rows: Sequence[dict[str, str]], numbers: Sequence[str], texts: dict[str, str] | None = None
) -> Table:
    """A table of rows of text; alarms stand out."""

    def cell(name: str) -> Callable[[dict[str, str]], str]:
        return lambda row: row.get(name, "")

    names = dict.fromkeys(name for row in rows for name in row)
    columns = [Column(name, cell(name), (texts or {}).get(name, ""), name in numbers) for name in names]
    return Table(columns, rows, lambda row: "alarm" if row["alarm"] else "")


def _distribution_figure(metric: Distribution) -> Figure:
    """A figure of the day and the reference: shares of categories, or cumulative shares of a number."""
    on_day, reference = (
        counts / max(counts.sum(), 1) for counts in (metric.counts[-1], metric.counts[:-1].sum(0))
    )
    name = f"{metric.name}: the day and the reference days"
    if not metric.ordered:
        rows = [
            (label, [_share(reference[k], "grey"), _share(on_day[k], "blue")])
            for k, label in enumerate(metric.labels)
        ]
        axis = linear_axis("share", [*on_day, *reference], from_zero=True)
        draw = partial(dot_plot, [("", rows)], axis, 0.0, name, left=150)
        return Figure(draw, legend=DAY_LEGEND, heading=metric.name, width=HALF_WIDTH)
    caption = (
        f"Above {metric.labels[-2]}: {on_day[-1]:.1%} on the day, {reference[-1]:.1%} on the reference days."
    )
    draw = partial(_cumulative_chart, metric, (reference, on_day), name)
    return Figure(draw, caption, DAY_LEGEND, metric.name, HALF_WIDTH)


def _cumulative_chart(
    metric: Distribution, shares: tuple[np.ndarray, np.ndarray], name: str, width: int
) -> Markup:
    """A chart of the cumulative shares of the reference and of the day."""
    edges = [float(label) for label in metric.labels[:-1]]  # the last bin has no upper edge
    plot = Chart(linear_axis(metric.name, edges), linear_axis("share up to this value", [0, 1]), width, 300)
    for share, colour in zip(shares, ("grey", "blue"), strict=True):
        plot.line(list(zip(edges, share.cumsum().tolist(), strict=False)), colour)
    return plot.svg(name)


def _share(value: float, colour: str) -> Interval:
    return Interval(float(value), 0.0, 0.0, colour, f"{value:.1%}")


def _calibration_section(calibrations: Sequence[CalibrationRatio]) -> dict[str, Any]:
    findings = [
        f"{calibration.task} on {_date(calibration.day)}: observed / predicted "
        f"{calibration.ratio:.3f} ({calibration.low:.3f} to {calibration.high:.3f})"
        for calibration in calibrations
    ]
    figures = [
        Figure(
            partial(_reliability_diagram, calibration),
            heading=calibration.task.capitalize(),
            width=HALF_WIDTH,
        )
        for calibration in calibrations
    ]
    return {"finding": "; ".join(findings) + ".", "figures": figures}


def _reliability_diagram(calibration: CalibrationRatio, width: int) -> Markup:
    values = [value for tenth in calibration.bins for value in (tenth.predicted, tenth.low, tenth.high)]
    chart = Chart(
        linear_axis("predicted", values, from_zero=True),
        linear_axis("observed", values, from_zero=True),
        width=width,
        height=320,
    )
    chart.reference_line((0.0, 0.0), (max(values), max(values)))
    for tenth in calibration.bins:
        chart.line([(tenth.predicted, tenth.low), (tenth.predicted, tenth.high)], "blue")
        tip = f"predicted {tenth.predicted:.4f}, observed {tenth.observed:.4f}, {tenth.items:,} items"
        chart.dot(tenth.predicted, tenth.observed, "blue", tip)
    return chart.svg(f"{calibration.task}: observed against predicted")


def _scalar_chart(metric: Scalar, last_day: int, alarm: bool, width: int) -> Markup:
    """A chart of a metric by day. A dot marks the tested day."""
    points = [
        (k - len(metric.raw_value) + 1, float(value))
        for k, value in enumerate(metric.raw_value)
        if np.isfinite(value)
    ]
    days = linear_axis(f"days until {_date(last_day)}", [-len(metric.raw_value) + 1, 0])
    chart = Chart(days, linear_axis(metric.name, [value for _, value in points]), width, 240)
    chart.line(points, "grey")
    tip = format(points[-1][1], metric.format_spec)
    chart.dot(*points[-1], "orange" if alarm else "blue", tip, 5)
    return chart.svg(f"{metric.name} by day")
