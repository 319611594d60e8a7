"""The page about recall, latency and size of retrieval indexes, with a chart and the Pareto front."""

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup

from reporting.charts import NARROW_WIDTH, Axis, Chart, linear_axis
from reporting.elements import Column, Figure, Head, KeyFigure, Table
from reporting.formatting import format_duration, format_number, format_percent
from reporting.render import render
from reporting.tables import Row

MIN_RECALL = 0.9  # the chart leaves out settings below
LEGEND = (("blue", "chosen"), ("green", "Sextet"), ("orange", "other libraries"))
TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # milliseconds


def index_page(rows: Sequence[Row], title: str, introduction: str) -> str:
    """Return a page of rows with `system`, `params`, `recall`, `p50_ms`, `p99_ms`, `bytes_per_vector`,
    `build_s` and, for rows of this project, `chosen`.
    """
    columns = [
        Column("system", lambda row: row["system"], numeric=False),
        Column("setting", lambda row: row["params"], numeric=False),
        Column("recall", lambda row: f"{row['recall']:.4f}"),
        Column("p50 ms", lambda row: f"{row['p50_ms']:.3f}"),
        Column("p99 ms", lambda row: f"{row['p99_ms']:.3f}"),
        Column("bytes per vector", lambda row: f"{row['bytes_per_vector']:,.1f}"),
        Column("build time", lambda row: format_duration(row["build_s"])),
    ]
    front = sorted(pareto_front(rows), key=lambda row: -row["recall"])
    caption = "A dot per setting; a larger dot takes more bytes per vector."
    return render(
        "retrieval_index.html",
        Head(
            title=title,
            answer=_answer(rows),
            figures=_key_figures(rows),
            source=[("Measurement", introduction)],
        ),
        latency=Figure(partial(recall_latency_chart, rows), caption, LEGEND),
        front=Table(columns, front, lambda row: "highlight" if row.get("chosen") else ""),
    )


def _chosen_row(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.get("chosen")), None)


def _fastest_baseline(rows: Sequence[Row], chosen: Row) -> Row | None:
    """Return the fastest setting of another library that reaches at least the recall of the row `chosen`."""
    baselines = [row for row in rows if "chosen" not in row and row["recall"] >= chosen["recall"]]
    return min(baselines, key=lambda row: row["p50_ms"], default=None)


def _answer(rows: Sequence[Row]) -> str:
    chosen = _chosen_row(rows)
    if chosen is None:
        return f"{len(rows):,} settings were measured, and none was chosen."
    sentence = (
        f"The chosen index finds {format_percent(chosen['recall'])} of the nearest items in "
        f"{_milliseconds(chosen['p50_ms'])} (median)"
    )
    baseline = _fastest_baseline(rows, chosen)
    if baseline is None:
        return f"{sentence}."
    return f"{sentence}; {baseline['system']} needs {_milliseconds(baseline['p50_ms'])} for this recall."


def _key_figures(rows: Sequence[Row]) -> list[KeyFigure]:
    chosen = _chosen_row(rows)
    if chosen is None:
        return []
    baseline = _fastest_baseline(rows, chosen)
    columns = (
        ("Recall of exact search", "recall", lambda value: format_percent(value, 2)),
        ("Median latency of a query", "p50_ms", _milliseconds),
        ("99th percentile of the latency", "p99_ms", _milliseconds),
        ("Bytes per vector", "bytes_per_vector", lambda value: f"{value:,.1f}"),
    )
    return [
        KeyFigure(
            name,
            form(chosen[column]),
            "" if baseline is None else f"{baseline['system']}: {form(baseline[column])}",
        )
        for name, column, form in columns
    ]


def _milliseconds(value: float) -> str:
    return f"{format_number(value, 2)} ms"


def recall_latency_chart(rows: Sequence[Row], width: int) -> Markup:
    """Draw median latency by recall, for recalls from MIN_RECALL on."""
    rows = [row for row in rows if row["recall"] >= MIN_RECALL]
    times = [row["p50_ms"] for row in rows] or [1.0]
    low, high = 0.8 * min(times), 1.25 * max(times)
    y = Axis("median latency of a query, ms", low, high, tuple(t for t in TICKS if low < t < high), True)
    chart = Chart(
        linear_axis("recall", [MIN_RECALL, 1.0]),
        y,
        width,
        height=420,
        right=90 if width > NARROW_WIDTH else 20,
    )
    max_bytes = max((row["bytes_per_vector"] for row in rows), default=1.0)
    for row in sorted(rows, key=lambda row: bool(row.get("chosen"))):
        colour = "blue" if row.get("chosen") else "green" if "chosen" in row else "orange"
        tip = f"{row['system']} {row['params']}: recall {row['recall']:.4f}, {row['p50_ms']:.3f} ms, "
        tip += f"{row['bytes_per_vector']:,.0f} bytes"
        radius = 2 + 5 * (row["bytes_per_vector"] / max_bytes) ** 0.5
        chart.dot(row["recall"], row["p50_ms"], colour, tip, radius)
    for system in dict.fromkeys(row["system"] for row in rows):
        best = max((row for row in rows if row["system"] == system), key=lambda row: row["recall"])
        chart.label(best["recall"], best["p50_ms"], system)
    return chart.svg("Median latency of a query against recall, by system")


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """Return the rows for which no other row is at least as good in recall, time and bytes.

    Of several equal rows, the first is kept.
    """
    front: list[Row] = []
    for row in rows:
        if not any(_dominates(kept, row) for kept in front):
            front = [kept for kept in front if not _dominates(row, kept)] + [row]
    return front


def _dominates(a: Row, b: Row) -> bool:
    return (
        a["recall"] >= b["recall"]
        and a["p50_ms"] <= b["p50_ms"]
        and a["bytes_per_vector"] <= b["bytes_per_vector"]
    )
