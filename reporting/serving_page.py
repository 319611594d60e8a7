"""The page with latencies of the serving benchmark: by percentile, by stage, and by second under load."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from reporting.charts import HALF_WIDTH, Axis, Chart
from reporting.elements import Column, Figure, Head, KeyFigure, Table
from reporting.formatting import MISSING, format_count, format_number, format_percent
from reporting.render import render
from reporting.tables import Row

PERCENTILE_RATES = {"p50_ms": 2, "p95_ms": 20, "p99_ms": 100, "p999_ms": 1000}  # one request in so many
TICKS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)
COLOURS = ("blue", "orange", "green", "grey")
LATENCIES = (("p50_ms", "blue", "median"), ("p99_ms", "orange", "99th percentile"))
OUTCOMES = (
    ("ranked", "green", "ranked"),
    ("refused", "grey", "refused with 503"),
)


def serving_page(rows: Sequence[Row], title: str, introduction: str, deadline_ms: float = 100.0) -> str:
    """Return a page of the rows of benchmarks/serving.py."""
    rows = [row for row in rows if "p50_ms" in row]  # a row about loading has no requests
    caption = f"The dashed line is the deadline, {deadline_ms:g} ms."
    clients = {
        "In process, one client": [row for row in rows if not _is_http(row)],
        "Over HTTP, counted from when a request was due": [row for row in rows if _is_http(row)],
    }
    return render(
        "serving_benchmark.html",
        Head(
            title=title,
            answer=_answer(rows, deadline_ms),
            status="good" if rows and _first(rows)["p99_ms"] <= deadline_ms else "bad",
            figures=_key_figures(rows, deadline_ms),
            source=[("Measurement", introduction)],
        ),
        percentiles=[
            Figure(
                partial(percentile_chart, members, name, deadline_ms),
                caption,
                _scenario_legend(members),
                name,
                760,
            )
            for name, members in clients.items()
            if members
        ],
        stages=[stages_section(row) for row in rows if "stages" in row],
        timelines=[timeline_section(row, deadline_ms) for row in rows if "over_time" in row],
        scenarios=Table(COLUMNS, rows),
    )


def _first(rows: Sequence[Row]) -> Row:
    """The row of the scenario without a failing stage and without load."""
    return next((row for row in rows if "stages" in row), rows[0])


def _answer(rows: Sequence[Row], deadline_ms: float) -> str:
    if not rows:
        return "No scenario has requests."
    row = _first(rows)
    worst = min(row["six_share"] for row in rows)
    sentence = (
        f"Half of the requests take at most {_duration(row['p50_ms'])} and 99 of 100 at most "
        f"{_duration(row['p99_ms'])}; the deadline is {_duration(deadline_ms)}."
    )
    if worst == 1:
        return f"{sentence} Every answer has six items."
    return f"{sentence} In the worst scenario {format_percent(worst)} of the answers have six items."


def _key_figures(rows: Sequence[Row], deadline_ms: float) -> list[KeyFigure]:
    """Return the key figures: latency of the first scenario beside the deadline and the floor."""
    if not rows:
        return []
    row, name = _first(rows), _first(rows)["scenario"]
    rates = [row["requests_per_s"] for row in rows if not math.isnan(row["requests_per_s"])]
    floor = f"floor: {_duration(row['floor_ms'])}" if "floor_ms" in row else ""
    return [
        KeyFigure(f"Median latency, {name}", _duration(row["p50_ms"]), floor),
        KeyFigure(
            f"99th percentile of the latency, {name}",
            _duration(row["p99_ms"]),
            f"deadline: {_duration(deadline_ms)}",
        ),
        KeyFigure(
            "Requests a second, highest of all scenarios",
            format_count(max(rates, default=math.nan)),
        ),
    ]


def _duration(milliseconds: float) -> str:
    return f"{format_number(milliseconds, 3)} ms"


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """The scenarios with answers, the fastest first."""
    return sorted((row for row in rows if not math.isnan(row["p50_ms"])), key=lambda row: row["p999_ms"])


def _scenario_label(row: Row) -> str:
    return str(row["scenario"]).removeprefix("HTTP, ")


def _scenario_legend(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The legend that numbers the lines, for charts without room for names."""
    return [
        (COLOURS[k % len(COLOURS)], f"{k + 1} {_scenario_label(row)}") for k, row in enumerate(_ordered(rows))
    ]


def percentile_chart(rows: Sequence[Row], name: str, deadline_ms: float, width: int) -> Markup:
    """Draw a line per scenario: the latency that one request in 2, 20, 100 and 1,000 exceeds."""
    rows = _ordered(rows)
    y = milliseconds_axis([row[quantile] for row in rows for quantile in PERCENTILE_RATES] + [deadline_ms])
    x = Axis("one request in … takes longer", 2, 1000, tuple(PERCENTILE_RATES.values()), log=True)
    chart = Chart(x, y, width=width, height=400, right=50)
    chart.reference_line((2, deadline_ms), (1000, deadline_ms))
    for k, row in enumerate(rows):
        colour = COLOURS[k % len(COLOURS)]
        chart.line([(rate, row[quantile]) for quantile, rate in PERCENTILE_RATES.items()], colour)
        for quantile, rate in PERCENTILE_RATES.items():
            chart.dot(rate, row[quantile], colour, f"{row['scenario']}: {row[quantile]:g} ms", 3)
    chart.end_labels([(row["p999_ms"], str(k + 1)) for k, row in enumerate(rows)])
    return chart.svg(name)


def stages_section(row: Row) -> dict[str, Any]:
    """The section with the time of each stage, as a share of the whole request, and with the floor."""
    stages = [{"stage": name, **times} for name, times in row["stages"].items() if name != "total"]
    stages += [
        {"stage": "whole request", "p50_ms": row["p50_ms"], "p99_ms": row["p99_ms"]},
        {"stage": "floor: bare index, query tower and ranker", "p50_ms": row["floor_ms"], "p99_ms": math.nan},
    ]
    columns = [
        Column("stage", lambda stage: stage["stage"], numeric=False),
        Column("p50 ms", partial(_milliseconds, "p50_ms", 2),
               bar_share=lambda stage: stage["p50_ms"] / row["p50_ms"]),
        Column("p99 ms", partial(_milliseconds, "p99_ms", 2)),
    ]  # fmt: skip
    return {
        "finding": f"{row['scenario']}: the median is {row['p50_over_floor']:.2f} times the floor.",
        "table": Table(columns, stages),
    }


def timeline_section(row: Row, deadline_ms: float) -> dict[str, Any]:
    """The section with latency and outcomes of a scenario's requests, by second."""
    charts = ((_latency_chart, LATENCIES), (_outcome_chart, OUTCOMES))
    return {
        "scenario": row["scenario"],
        "figures": [
            Figure(
                partial(draw, row, deadline_ms),
                legend=[(colour, meaning) for _, colour, meaning in series],
                width=HALF_WIDTH,
            )
            for draw, series in charts
        ],
    }


def _second_axis(seconds: Sequence[Row]) -> Axis:
    last = max(second["second"] for second in seconds)
    return Axis("second", 0, last + 1, tuple(range(0, last + 2, max(1, (last + 1) // 8))))


def _latency_chart(row: Row, deadline_ms: float, width: int) -> Markup:
    seconds = row["over_time"]
    last = max(second["second"] for second in seconds)
    answered = [second for second in seconds if not math.isnan(second["p99_ms"])]
    y = milliseconds_axis([second[name] for second in answered for name, *_ in LATENCIES] + [deadline_ms])
    latency = Chart(_second_axis(seconds), y, width=width, height=260)
    latency.reference_line((0, deadline_ms), (last + 1, deadline_ms))
    for name, colour, _ in LATENCIES:
        latency.line([(second["second"] + 0.5, second[name]) for second in answered], colour)
        for second in answered:
            tip = f"second {second['second']}: {second[name]:g} ms"
            latency.dot(second["second"] + 0.5, second[name], colour, tip, 2.5)
    return latency.svg(f"latency by second: {row['scenario']}")


def _outcome_chart(row: Row, deadline_ms: float, width: int) -> Markup:
    seconds = row["over_time"]
    y = Axis("share of requests", 0, 1, (0, 0.25, 0.5, 0.75, 1))
    shares = Chart(_second_axis(seconds), y, width, 260)
    for name, colour, _ in OUTCOMES:
        shares.line([(second["second"] + 0.5, second[name]) for second in seconds], colour)
    return shares.svg(f"share of requests by second: {row['scenario']}")


def milliseconds_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis in ms that covers `values` with a margin."""
    low, high = 0.8 * min(values), 1.25 * max(values)
    return Axis("ms", low, high, tuple(tick for tick in TICKS if low < tick < high), log=True)


def _is_http(row: Row) -> bool:
    return row["scenario"].startswith("HTTP")


def _milliseconds(name: str, digits: int, row: Row) -> str:
    return MISSING if math.isnan(row[name]) else f"{row[name]:,.{digits}f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


COLUMNS = [
    Column("scenario", lambda row: row["scenario"], numeric=False),
    Column("p50 ms", partial(_milliseconds, "p50_ms", 1)),
    Column("p95 ms", partial(_milliseconds, "p95_ms", 1)),
    Column("p99 ms", partial(_milliseconds, "p99_ms", 1)),
    Column("p99.9 ms", partial(_milliseconds, "p999_ms", 1)),
    Column("per second", lambda row: f"{row['requests_per_s']:,.0f}"),
    Column("six items", lambda row: format_percent(row["six_share"])),
    Column("MB", lambda row: f"{row['rss_mb']:,}"),
    Column("tiers", lambda row: _counts(row["tiers"]), numeric=False),
    Column("refused", lambda row: f"{row.get('statuses', {}).get('503', 0):,}"),
]
