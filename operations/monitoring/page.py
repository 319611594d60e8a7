"""A day as one self-contained page: alarms first, then what the others say, and the figures by day."""

from collections.abc import Sequence
from functools import partial
from html import escape

from operations.monitoring import formatting
from operations.monitoring.daily import DailyReport
from operations.monitoring.drift import FALSE_ALARM_RATE, Distribution, Scalar
from operations.monitoring.live_calibration import CalibrationRatio
from reporting.charts import Chart, Interval, dot_plot, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, section, table

Row = dict[str, str]


def daily_page(report: DailyReport, calibrations: Sequence[CalibrationRatio]) -> str:
    """The whole page."""
    title = f"Sextet on {formatting.format_date(report.day)}"
    about = f"{report.slates:,} slates, answered by {', '.join(report.bundle_versions) or 'no bundle'}, against the "
    about += f"{report.reference_days} days before. A quiet day raises an alarm once in {1 / FALSE_ALARM_RATE:.0f} days."
    body = (
        f'<p class="{"alarm" if report.exit_code else "finding"}">{escape(formatting.report_summary(report))}</p>'
        + paragraph(about, "soft")
        + _limits(report)
        + _drift(report)
        + _calibration(calibrations)
        + _by_day(report)
    )
    return document(title, body)


def rows_table(rows: Sequence[Row], numbers: Sequence[str] = (), means: dict[str, str] | None = None) -> str:
    """Rows of text as a table; alarms stand out."""
    columns = [
        Column(name, partial(_cell, name), (means or {}).get(name, ""), numeric=name in numbers)
        for name in dict.fromkeys(name for row in rows for name in row)
    ]
    return table(columns, rows, lambda row: "alarm" if "ALARM" in row.values() else "")


def _cell(name: str, row: Row) -> str:
    return row.get(name, "")


def _limits(report: DailyReport) -> str:
    rows = [formatting.check_row(one) for one in report.threshold_checks]
    return section("limits", "Is everything fresh and found?", "", rows_table(rows, ("value", "alarm")))


def _drift(report: DailyReport) -> str:
    means = {
        "day": "the day that is judged; outcomes are of the last day on which all of them are in",
        "statistic": "PSI and KS compare distributions, z a figure in standard deviations of quiet days",
        "p": "chance of as much on a quiet day",
        "then": "the median, the figure, or the word whose share moved the most",
    }
    numbers = ("day", "value", "alarm at", "p")
    without = "".join(paragraph(f"Not judged: {line}.", "soft") for line in report.untested)
    moved = [one for part in report.metric_sets for one in part.metrics if one.name in _names(report)]
    pictures = "".join(_distribution(one) for one in moved if isinstance(one, Distribution))
    return section(
        "drift", "Is the day like others of its weekday?", "",
        rows_table(formatting.statistic_rows(report), numbers, means), without, pictures,
    )  # fmt: skip


def _names(report: DailyReport) -> set[str]:
    return {one.name for one in report.alarms}


def _distribution(one: Distribution) -> str:
    """The day and the reference: shares of words, or cumulated shares of a number."""
    now, usual = (counts / max(counts.sum(), 1) for counts in (one.counts[-1], one.counts[:-1].sum(0)))
    colours = legend(("ours", "the day"), ("other", "the days before"))
    name = f"{one.name}: the day and the days before"
    if one.ordered:
        axes = (
            linear_axis(f"{one.name}, bins", [0, len(one.labels) - 1]),
            linear_axis("share up to there", [0, 1]),
        )
        chart = Chart(*axes)
        for share, css in ((usual, "other"), (now, "ours")):
            chart.line(list(enumerate(share.cumsum().tolist())), css)
        return figure(chart.svg(name), f"Bins begin at {one.labels[0]} and end at {one.labels[-2]}.", colours)
    rows = [
        (label, [_share(usual[k], "other"), _share(now[k], "ours")]) for k, label in enumerate(one.labels)
    ]
    axis = linear_axis("share", [*now, *usual], from_zero=True)
    return figure(dot_plot([(one.name, rows)], axis, 0.0, name), "", colours)


def _share(value: float, css: str) -> Interval:
    return Interval(float(value), 0.0, 0.0, css, f"{value:.1%}")


def _calibration(calibrations: Sequence[CalibrationRatio]) -> str:
    if not calibrations:
        return ""
    said = [
        f"{one.head} on {formatting.format_date(one.day)}: observed over predicted {one.ratio:.3f} "
        f"({one.low:.3f} to {one.high:.3f})"
        for one in calibrations
    ]
    charts = "".join(
        figure(_reliability_diagram(one), f"{one.head}: a dot per tenth of the items.")
        for one in calibrations
    )
    return section(
        "calibration", "Do predictions come true?", "; ".join(said) + ".", f'<div class="pair">{charts}</div>'
    )


def _reliability_diagram(one: CalibrationRatio) -> str:
    values = [x for tenth in one.bins for x in (tenth.predicted, tenth.low, tenth.high)]
    chart = Chart(
        linear_axis("predicted", values, from_zero=True),
        linear_axis("observed", values, from_zero=True),
        height=320,
    )
    most = max(values)
    chart.line([(0.0, 0.0), (most, most)], "zero")
    for tenth in one.bins:
        chart.line([(tenth.predicted, tenth.low), (tenth.predicted, tenth.high)], "ours")
        tip = f"predicted {tenth.predicted:.4f}, observed {tenth.observed:.4f}, {tenth.items:,} items"
        chart.dot(tenth.predicted, tenth.observed, "ours", tip)
    return chart.svg(f"{one.head}: observed against predicted")


def _by_day(report: DailyReport) -> str:
    charts = []
    for part in report.metric_sets:
        for one in part.metrics:
            if isinstance(one, Scalar):
                charts.append(_scalar_chart(one, part.day, one.name in _names(report)))
    return section("days", "How did it go?", "", f'<div class="pair">{"".join(charts)}</div>')


def _scalar_chart(one: Scalar, last: int, alarm: bool) -> str:
    """A figure by day; the judged day is a dot."""
    points = [
        (k - len(one.raw_value) + 1, float(value))
        for k, value in enumerate(one.raw_value)
        if value == value  # no such day else
    ]
    if not points:
        return ""
    axes = linear_axis(f"days until {formatting.format_date(last)}", [-len(one.raw_value) + 1, 0])
    chart = Chart(axes, linear_axis(one.name, [y for _, y in points]), height=240)
    chart.line(points, "other")
    chart.dot(*points[-1], "rival" if alarm else "ours", format(points[-1][1], one.format_spec), 5)
    return figure(chart.svg(f"{one.name} by day"))
