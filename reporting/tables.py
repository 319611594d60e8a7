"""Aggregation of rows over seeds, and rows as text."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reporting.formatting import MISSING

Row = dict[str, Any]
METRICS = ("ndcg6", "hit6", "precision6", "revenue6")
COUNTS = ("checkouts", "pairs", "positives", "candidates", "seeds")
TWO_DIGITS = ("revenue6", "categories")


SLATE_KEYS = ("revenue_weight", "product_cap", "category_cap", "diversity")  # of a row of `slates`


def aggregate_seeds(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """Return one row per distinct value of `keys`, in order of appearance.

    `seeds` is the number of rows in a group. Every other number becomes its mean, and `<name>_sd` is its
    standard deviation (ddof 1, NaN for a single row). Both are NaN if a row lacks the number. Values that are
    not numbers are dropped.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    means = []
    for values, members in groups.items():
        mean: Row = dict(zip(keys, values, strict=True)) | {"seeds": len(members)}
        for name in dict.fromkeys(name for member in members for name in member):
            cells = [member.get(name) for member in members]
            if name in (*keys, "seed") or not any(map(_is_number, cells)):
                continue
            column = np.array([cell if _is_number(cell) else math.nan for cell in cells])
            mean[name] = float(column.mean())
            mean[f"{name}_sd"] = float(column.std(ddof=1)) if len(column) > 1 else math.nan
        means.append(mean)
    return means


def summarize_leaderboard(rows: Iterable[Row]) -> list[Row]:
    """Return the leaderboard over seeds, a row per (system, order, slice).

    `checkouts` is the mean, rounded to a whole number.
    """
    means = aggregate_seeds(rows, ("system", "order", "slice"))
    return [row | {"checkouts": round(row["checkouts"])} for row in means]


def format_metric(row: Row, name: str, digits: int = 4) -> str:
    """Format as `0.4936`, over several seeds as `0.4936 ± 0.0012`. A missing or NaN value is `–`."""
    value = row.get(name)
    if value is None or math.isnan(value):
        return MISSING
    spread = row.get(f"{name}_sd", math.nan)
    return f"{value:,.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:,.{digits}f}")


def format_rows(rows: Iterable[Row]) -> list[Row]:
    """Return rows of `aggregate_seeds` as text cells: each mean with its standard deviation."""
    return [
        {
            name: format_metric(row, name, _digits(name)) if isinstance(value, float) else str(value)
            for name, value in row.items()
            if not name.endswith("_sd") and value is not None
        }
        for row in rows
    ]


def by_column(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return column → rows of text cells.

    A row has the metrics of one value. A metric is followed by its interval.
    """
    tables: dict[str, list[Row]] = {}
    for row in rows:
        cells = {"value": row["value"], "checkouts": f"{row['checkouts']:,}"}
        for metric in METRICS:
            low, high = (format_metric(row, f"{metric}_{end}", _digits(metric)) for end in ("low", "high"))
            interval = f" ({low} to {high})" if f"{metric}_low" in row else ""
            cells[metric] = format_metric(row, metric, _digits(metric)) + interval
        tables.setdefault(row["column"], []).append(cells)
    return tables


def markdown_table(heading: Sequence[str], lines: Iterable[Sequence[str]], n_text: int = 1) -> str:
    """Return lines of cells as Markdown; all but the first `n_text` columns are numbers, aligned right."""
    rule = ["---"] * n_text + ["---:"] * (len(heading) - n_text)
    return "\n".join(f"| {' | '.join(line)} |" for line in [heading, rule, *lines])


def text_table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text: all keys in order of appearance; a missing value is blank."""
    if not rows:
        return "(nothing)"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def leaderboard_table(rows: Iterable[Row]) -> str:
    """Return the leaderboard as text, a block per slice; mean ± standard deviation over several seeds.

    A slice without checkouts has no block.
    """
    slices: dict[str, list[Row]] = {}
    for row in (row for row in summarize_leaderboard(rows) if row["checkouts"]):
        slices.setdefault(row["slice"], []).append(row)
    blocks = []
    for name, members in slices.items():
        cells = [
            {key: row[key] for key in ("system", "order", "seeds")}
            | {metric: format_metric(row, metric, _digits(metric)) for metric in METRICS}
            for row in members
        ]
        blocks.append(f"{name} ({members[0]['checkouts']:,} checkouts)\n{text_table(cells)}")
    return "\n\n".join(blocks)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _digits(name: str) -> int:
    """The number of digits after the point: none for counts, two for money, four for all other metrics."""
    return 0 if name in COUNTS else 2 if name in TWO_DIGITS else 4


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
