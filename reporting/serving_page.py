"""How long requests take: by percentile, by stage beside the floor, and through a swap and overload."""

import math
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

from reporting.charts import Axis, Chart
from reporting.markup import Column, document, figure, legend, paragraph, table

Row = dict[str, Any]
PERCENTILE_RATES = {
    "p50_ms": 2,
    "p95_ms": 20,
    "p99_ms": 100,
    "p999_ms": 1000,
}  # one request in so many takes longer
TICKS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
COLOURS = ("ours", "rival", "third", "other")


def serving_page(rows: Sequence[Row], title: str, introduction: str, deadline_ms: float = 100.0) -> str:
    """A self-contained page of the rows of benchmarks/serving.py."""
    rows = [row for row in rows if "p50_ms" in row]  # loading answers nothing
    inside = [row for row in rows if not row["scenario"].startswith("HTTP")]
    outside = [row for row in rows if row["scenario"].startswith("HTTP")]
    body = f"{paragraph(introduction)}<h2>By percentile</h2>"
    for some, name in (
        (inside, "In process, one client"),
        (outside, "Over HTTP, from when a request was due"),
    ):
        if some:
            caption = f"The line across is the deadline, {deadline_ms:g} ms."
            body += f"<h3>{name}</h3>" + figure(percentile_chart(some, name, deadline_ms), caption)
    for row in rows:
        if "stages" in row:
            body += "<h2>By stage</h2>" + stage_table(row)
    for row in rows:
        if "over_time" in row:
            body += f"<h2>{escape(row['scenario'])}</h2>" + timeline_charts(row, deadline_ms)
    body += "<h2>All figures</h2>" + table(COLUMNS, rows)
    return document(title, body)


def percentile_chart(rows: Sequence[Row], name: str, deadline_ms: float) -> str:
    """A line a scenario: the time that one request in 2, 20, 100 and 1,000 exceeds."""
    rows = [row for row in rows if not math.isnan(row["p50_ms"])]  # where something was answered
    y = milliseconds_axis([row[quantile] for row in rows for quantile in PERCENTILE_RATES] + [deadline_ms])
    x = Axis("one request in … takes longer", 2, 1000, tuple(PERCENTILE_RATES.values()), log=True)
    chart = Chart(x, y, width=860, height=400, right=330)
    chart.line([(2, deadline_ms), (1000, deadline_ms)], "zero")
    for place, row in enumerate(sorted(rows, key=lambda row: row["p999_ms"])):
        css = COLOURS[place % len(COLOURS)]
        chart.line([(below, row[quantile]) for quantile, below in PERCENTILE_RATES.items()], css)
        for quantile, below in PERCENTILE_RATES.items():
            chart.dot(below, row[quantile], css, f"{row['scenario']}: {row[quantile]:g} ms", 3)
    chart.end_labels([(row["p999_ms"], row["scenario"].removeprefix("HTTP, ")) for row in rows])
    return chart.svg(name)


def stage_table(row: Row) -> str:
    """What each stage takes, as a share of the whole, and the floor."""
    taken = [{"stage": name, **times} for name, times in row["stages"].items() if name != "total"]
    taken += [
        {"stage": "whole request", "p50_ms": row["p50_ms"], "p99_ms": row["p99_ms"]},
        {"stage": "floor: bare index, query tower and ranker", "p50_ms": row["floor_ms"], "p99_ms": math.nan},
    ]
    columns = [
        Column("stage", lambda one: one["stage"], numeric=False),
        Column(
            "p50 ms", lambda one: f"{one['p50_ms']:.2f}", bar_share=lambda one: one["p50_ms"] / row["p50_ms"]
        ),
        Column("p99 ms", lambda one: "–" if math.isnan(one["p99_ms"]) else f"{one['p99_ms']:.2f}"),
    ]
    said = f"{row['scenario']}: the median is {row['p50_over_floor']:.2f} times the floor."
    return paragraph(said, "finding") + table(columns, taken)


def timeline_charts(row: Row, deadline_ms: float) -> str:
    """Latency over the time of a scenario, and below it what became of the requests."""
    seconds = row["over_time"]
    last = max(one["second"] for one in seconds)
    x = Axis("second", 0, last + 1, tuple(range(0, last + 2, max(1, (last + 1) // 8))))
    known = [one for one in seconds if not math.isnan(one["p99_ms"])]
    y = milliseconds_axis([one[name] for one in known for name in ("p50_ms", "p99_ms")] + [deadline_ms])
    time = Chart(x, y, height=260)
    time.line([(0, deadline_ms), (last + 1, deadline_ms)], "zero")
    lines = (("p50_ms", "ours"), ("p99_ms", "rival"))
    for name, css in lines:
        time.line([(one["second"] + 0.5, one[name]) for one in known], css)
        for one in known:
            time.dot(one["second"] + 0.5, one[name], css, f"second {one['second']}: {one[name]:g} ms", 2.5)
    shares = Chart(x, Axis("share of requests", 0, 1, (0, 0.25, 0.5, 0.75, 1)), height=220)
    kinds = (("ranked", "third"), ("refused", "other"))
    for name, css in kinds:
        shares.line([(one["second"] + 0.5, one[name]) for one in seconds], css)
    above = legend((lines[0][1], "median"), (lines[1][1], "99th percentile"))
    below = legend((kinds[0][1], "ranked"), (kinds[1][1], "refused with 503; the rest got popular items"))
    return (
        '<div class="pair">'
        + figure(time.svg(f"latency by second: {row['scenario']}"), header=above)
        + figure(shares.svg(f"shares by second: {row['scenario']}"), header=below)
        + "</div>"
    )


def milliseconds_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis around times."""
    low, high = 0.8 * min(values), 1.25 * max(values)
    return Axis("ms", low, high, tuple(tick for tick in TICKS if low < tick < high), log=True)


def _format_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _format_milliseconds(name: str, row: Row) -> str:
    return f"{row[name]:.1f}"


COLUMNS = [
    Column("scenario", lambda row: row["scenario"], numeric=False),
    Column("p50 ms", partial(_format_milliseconds, "p50_ms")),
    Column("p95 ms", partial(_format_milliseconds, "p95_ms")),
    Column("p99 ms", partial(_format_milliseconds, "p99_ms")),
    Column("p99.9 ms", partial(_format_milliseconds, "p999_ms")),
    Column("a second", lambda row: f"{row['requests_per_s']:,.0f}"),
    Column("six items", lambda row: f"{row['six_share']:.1%}"),
    Column("MB", lambda row: f"{row['rss_mb']:,}"),
    Column("answered by", lambda row: _format_counts(row["tiers"]), numeric=False),
    Column("refused", lambda row: f"{row.get('statuses', {}).get('503', 0):,}"),
]
