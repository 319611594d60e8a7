"""The page of a day: its values for reporting's template."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from operations.monitoring import formatting
from operations.monitoring.daily import DailyReport
from operations.monitoring.drift import FALSE_ALARM_RATE, Distribution, Scalar
from operations.monitoring.live_calibration import CalibrationRatio
from reporting.charts import HALF_WIDTH, Chart, Interval, dot_plot, linear_axis
from reporting.elements import Column, Figure, Table
from reporting.render import render

DAY_LEGEND = (("blue", "the day"), ("grey", "the reference days"))
STATISTIC_TEXTS = {
    "day": "the tested day; outcomes are of the last day with complete outcomes",
    "statistic": "PSI and KS compare distributions; z is in standard deviations of quiet days",
    "p": "probability of such a value on a quiet day",
    "on the day": "the median, the value, or the category whose share changed most",
}
STATISTIC_NUMBERS = ("day", "value", "alarm at", "p")


def daily_page(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> str:
    """Return the page of a day."""
    alarms = {statistic.name for statistic in report.alarms}
    changed = [
        metric
        for part in report.metric_sets
        for metric in part.metrics
        if metric.name in alarms and isinstance(metric, Distribution)
    ]
    return render(
        "daily_report.html",
        title=f"Sextet on {formatting.format_date(report.day)}",
        verdict=formatting.report_summary(report),
        status=("good", "bad", "")[report.exit_code],
        slates=report.slates,
        versions=", ".join(report.bundle_versions) or "no bundle",
        reference_days=report.reference_days,
        days_per_false_alarm=round(1 / FALSE_ALARM_RATE),
        limits=_text_table([formatting.check_row(check) for check in report.threshold_checks], ("value",)),
        drift=_text_table(formatting.statistic_rows(report), STATISTIC_NUMBERS, STATISTIC_TEXTS),
        untested=report.untested,
        distributions=[_distribution_figure(metric) for metric in changed],
        calibration=_calibration_section(calibrations) if calibrations else None,
        by_day=[
            _scalar_figure(metric, part.day, metric.name in alarms)
            for part in report.metric_sets
            for metric in part.metrics
            if isinstance(metric, Scalar) and np.isfinite(metric.raw_value).any()
        ],
    )


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
    """The day and the reference: shares of categories, or cumulative shares of a number."""
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
        chart = dot_plot([("", rows)], axis, 0.0, name, HALF_WIDTH, 150)
        return Figure(chart, legend=DAY_LEGEND, heading=metric.name)
    edges = [float(label) for label in metric.labels[:-1]]  # the last bin has no upper edge
    plot = Chart(
        linear_axis(metric.name, edges), linear_axis("share up to this value", [0, 1]), HALF_WIDTH, 300
    )
    for share, colour in ((reference, "grey"), (on_day, "blue")):
        plot.line(list(zip(edges, share.cumsum().tolist(), strict=False)), colour)
    caption = (
        f"Above {metric.labels[-2]}: {on_day[-1]:.1%} on the day, {reference[-1]:.1%} on the reference days."
    )
    return Figure(plot.svg(name), caption, DAY_LEGEND, metric.name)


def _share(value: float, colour: str) -> Interval:
    return Interval(float(value), 0.0, 0.0, colour, f"{value:.1%}")


def _calibration_section(calibrations: Sequence[CalibrationRatio]) -> dict[str, Any]:
    findings = [
        f"{calibration.task} on {formatting.format_date(calibration.day)}: observed / predicted "
        f"{calibration.ratio:.3f} ({calibration.low:.3f} to {calibration.high:.3f})"
        for calibration in calibrations
    ]
    figures = [
        Figure(_reliability_diagram(calibration), heading=calibration.task.capitalize())
        for calibration in calibrations
    ]
    return {"finding": "; ".join(findings) + ".", "figures": figures}


def _reliability_diagram(calibration: CalibrationRatio) -> Markup:
    values = [value for tenth in calibration.bins for value in (tenth.predicted, tenth.low, tenth.high)]
    chart = Chart(
        linear_axis("predicted", values, from_zero=True),
        linear_axis("observed", values, from_zero=True),
        width=HALF_WIDTH,
        height=320,
    )
    chart.reference_line((0.0, 0.0), (max(values), max(values)))
    for tenth in calibration.bins:
        chart.line([(tenth.predicted, tenth.low), (tenth.predicted, tenth.high)], "blue")
        tip = f"predicted {tenth.predicted:.4f}, observed {tenth.observed:.4f}, {tenth.items:,} items"
        chart.dot(tenth.predicted, tenth.observed, "blue", tip)
    return chart.svg(f"{calibration.task}: observed against predicted")


def _scalar_figure(metric: Scalar, last_day: int, alarm: bool) -> Figure:
    """A metric by day; the tested day is a dot."""
    points = [
        (k - len(metric.raw_value) + 1, float(value))
        for k, value in enumerate(metric.raw_value)
        if np.isfinite(value)
    ]
    days = linear_axis(f"days until {formatting.format_date(last_day)}", [-len(metric.raw_value) + 1, 0])
    chart = Chart(days, linear_axis(metric.name, [value for _, value in points]), HALF_WIDTH, 240)
    chart.line(points, "grey")
    tip = format(points[-1][1], metric.format_spec)
    chart.dot(*points[-1], "orange" if alarm else "blue", tip, 5)
    return Figure(chart.svg(f"{metric.name} by day"))
