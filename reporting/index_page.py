"""What indexes find, how long they take and how large they are: a page with the picture and the table."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from reporting.charts import Axis, Chart, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, table

Row = dict[str, Any]
MIN_RECALL = 0.9  # recall from which on the picture starts
COLOURS = (("ours", "chosen"), ("third", "of this project"), ("rival", "others"))
TICKS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def index_page(rows: Sequence[Row], title: str, introduction: str) -> str:
    """A self-contained page of rows with `system`, `params`, `recall`, `p50_ms`, `p99_ms`,
    `bytes_per_vector`, `build_s` and, for this project's, `chosen`."""
    figures = {"recall": ".4f", "p50_ms": ".3f", "p99_ms": ".3f", "bytes_per_vector": ".1f", "build_s": ".0f"}
    columns = [
        Column("system", lambda row: row["system"], numeric=False),
        Column("setting", lambda row: row["params"], numeric=False),
        *(
            Column(name.replace("_", " "), partial(_format_cell, name, form))
            for name, form in figures.items()
        ),
    ]
    best = sorted(pareto_front(rows), key=lambda row: -row["recall"])
    body = (
        paragraph(introduction)
        + figure(
            recall_latency_chart(rows),
            "A dot per setting; its size says how many bytes a vector takes.",
            legend(*COLOURS),
        )
        + "<h2>The Pareto front</h2>"
        + paragraph("Settings than which none finds more, in less time, with fewer bytes.")
        + table(columns, best, lambda row: "ours" if row.get("chosen") else "")
    )
    return document(title, body)


def recall_latency_chart(rows: Sequence[Row]) -> str:
    """Recall against the median time, from FROM on."""
    shown = [row for row in rows if row["recall"] >= MIN_RECALL]
    times = [row["p50_ms"] for row in shown] or [1.0]
    low, high = 0.8 * min(times), 1.25 * max(times)
    y = Axis("median time of a query, ms", low, high, tuple(t for t in TICKS if low < t < high), True)
    chart = Chart(linear_axis("recall", [MIN_RECALL, 1.0]), y, height=420, right=90)
    most = max((row["bytes_per_vector"] for row in shown), default=1.0)
    for row in sorted(shown, key=lambda row: bool(row.get("chosen"))):
        css = "ours" if row.get("chosen") else "third" if "chosen" in row else "rival"
        tip = f"{row['system']} {row['params']}: recall {row['recall']:.4f}, {row['p50_ms']:.3f} ms, "
        tip += f"{row['bytes_per_vector']:.0f} bytes"
        chart.dot(row["recall"], row["p50_ms"], css, tip, 2 + 5 * (row["bytes_per_vector"] / most) ** 0.5)
    for system in dict.fromkeys(row["system"] for row in shown):
        last = max((row for row in shown if row["system"] == system), key=lambda row: row["recall"])
        chart.label(last["recall"], last["p50_ms"], system)
    return chart.svg("recall against the median time of a query, by system")


def pareto_front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other equals or beats in recall, time and bytes at once; of equals the first."""
    kept: list[Row] = []
    for row in rows:
        if not any(_dominates(other, row) for other in kept):
            kept = [other for other in kept if not _dominates(row, other)] + [row]
    return kept


def _format_cell(name: str, form: str, row: Row) -> str:
    return format(row[name], form)


def _dominates(a: Row, b: Row) -> bool:
    return (
        a["recall"] >= b["recall"]
        and a["p50_ms"] <= b["p50_ms"]
        and a["bytes_per_vector"] <= b["bytes_per_vector"]
    )
