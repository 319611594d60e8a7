"""The leaderboard as text, JSON and one self-contained HTML page."""

import base64
import html
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.metrics import Calibration
from evaluation.protocol import METRICS

Row = dict[str, Any]
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:.5em 0 1.5em}td,th{padding:.2em .8em;border-bottom:1px solid #ddd}
th{text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}"""


def summary(rows: Iterable[Row]) -> list[Row]:
    """One row per (system, order, slice), in order of appearance: `seeds`, `checkouts`, and of each metric
    the mean and the standard deviation over seeds (`<metric>_sd`, ddof 1, NaN for a single seed)."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["system"], row["order"], row["slice"]), []).append(row)
    result = []
    for (system, order, part), members in groups.items():
        line: Row = {"system": system, "order": order, "slice": part, "seeds": len(members)}
        line["checkouts"] = members[0]["checkouts"]
        for metric in METRICS:
            values = np.array([member[metric] for member in members], np.float64)
            line[metric] = float(values.mean())
            line[f"{metric}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        result.append(line)
    return result


def _figure(line: Row, metric: str) -> str:
    digits = 2 if metric == "revenue6" else 4  # money in cents
    if math.isnan(line[metric]):
        return "–"
    spread = line[f"{metric}_sd"]
    return f"{line[metric]:.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:.{digits}f}")


def _blocks(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """(heading, lines of text cells) per slice; `±` is the standard deviation over seeds."""
    parts: dict[str, list[Row]] = {}
    for line in summary(rows):
        parts.setdefault(line["slice"], []).append(line)
    return [
        (
            f"{part} ({lines[0]['checkouts']:,} checkouts)",
            [
                {"system": line["system"], "order": line["order"], "seeds": str(line["seeds"])}
                | {metric: _figure(line, metric) for metric in METRICS}
                for line in lines
            ],
        )
        for part, lines in parts.items()
    ]


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _cells(rows: list[Row]) -> list[list[str]]:
    """The header (all keys, in the order in which they appear) and a line per row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names] + [[_cell(row[name]) if name in row else "" for name in names] for row in rows]


def text_table(rows: list[Row]) -> str:
    """Dicts as aligned text; the first column to the left, figures to the right, blank where missing."""
    if not rows:
        return "(nothing)"
    lines = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def leaderboard_table(rows: Iterable[Row]) -> str:
    """The leaderboard as text, one block per slice; mean ± standard deviation over several seeds."""
    return "\n\n".join(f"{heading}\n{text_table(lines)}" for heading, lines in _blocks(rows))


def without_nan(rows: Iterable[Row]) -> list[Row]:
    """The rows as JSON can hold them: NaN becomes None."""
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows
    ]


def write_leaderboard(rows: Iterable[Row], path: Path) -> None:
    """Write the rows as a JSON list, one per (system, order, slice, seed); NaN becomes null."""
    clean = without_nan(rows)
    _write(path, json.dumps(clean, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def calibration_plot(curves: dict[str, Calibration]) -> bytes:
    """PNG of observed against predicted frequency, both on a log scale: most predictions are near zero."""
    figure = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    lowest = 1.0
    for name, curve in curves.items():
        # A bin without positives has no place on a log scale.
        seen = (curve.observed > 0) & (curve.predicted > 0)
        axes.plot(curve.predicted[seen], curve.observed[seen], marker="o", markersize=3, label=name)
        lowest = min(lowest, curve.predicted[seen].min(initial=1.0), curve.observed[seen].min(initial=1.0))
    axes.plot([lowest, 1], [lowest, 1], color="grey", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="predicted", ylabel="observed")
    if curves:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _html_table(rows: list[Row]) -> str:
    if not rows:
        return "<p>(nothing)</p>"
    names, *lines = _cells(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if at else ''}>{html.escape(cell)}</td>" for at, cell in enumerate(line))
        + "</tr>\n"
        for line in lines
    )
    return f"<table><tr>{head}</tr>\n{body}</table>"


def write_html(
    path: Path,
    title: str,
    rows: Iterable[Row],
    click_label: str,
    tables: dict[str, list[Row]] | None = None,
    curves: dict[str, Calibration] | None = None,
    notes: Iterable[str] = (),
) -> None:
    """Write the evaluation report: one HTML page that loads nothing else.

    `click_label` says whether clicks were logged or are the proxy of docs/architecture.md; `tables` are more
    tables by heading (recall by source, quality of the heads); `curves` are calibration curves by head.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>Click label: {html.escape(click_label)}.</p>"]
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    for heading, lines in [*_blocks(rows), *(tables or {}).items()]:
        parts += [f"<h2>{html.escape(heading)}</h2>", _html_table(lines)]
    if curves:
        image = base64.b64encode(calibration_plot(curves)).decode()
        parts += ["<h2>Calibration</h2>", f'<img alt="calibration" src="data:image/png;base64,{image}">']
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    _write(
        path,
        f"<!doctype html><html lang=en><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n",
    )
