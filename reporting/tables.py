"""Rows over seeds, as text and as JSON."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def aggregate_seeds(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """One row per distinct value of `keys`, in order of appearance.

    `seeds` counts the rows that went into it. Every other number becomes its mean over them, with the
    standard deviation beside it (`<name>_sd`, ddof 1, NaN for a single one); other values are dropped.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    result = []
    for values, members in groups.items():
        line: Row = dict(zip(keys, values, strict=True)) | {"seeds": len(members)}
        for name, first in members[0].items():
            if name in (*keys, "seed") or isinstance(first, bool) or not isinstance(first, int | float):
                continue
            figures = np.array([member[name] for member in members], np.float64)
            line[name] = float(figures.mean())
            line[f"{name}_sd"] = float(figures.std(ddof=1)) if len(figures) > 1 else math.nan
        result.append(line)
    return result


def summarize_leaderboard(rows: Iterable[Row]) -> list[Row]:
    """The leaderboard's rows over seeds: one per (system, order, slice); `checkouts` is a count."""
    lines = aggregate_seeds(rows, ("system", "order", "slice"))
    return [line | {"checkouts": round(line["checkouts"])} for line in lines]


def format_metric(line: Row, name: str, digits: int = 4) -> str:
    """`0.4936`, over several seeds `0.4936 ± 0.0012`, and `–` for what is missing or NaN."""
    value = line.get(name)
    if value is None or math.isnan(value):
        return "–"
    spread = line.get(f"{name}_sd", math.nan)
    return f"{value:,.{digits}f}" + ("" if math.isnan(spread) else f" ± {spread:,.{digits}f}")


def _digits(name: str) -> int:
    """Money in cents, counts whole, everything else to four places."""
    if name in ("checkouts", "pairs", "candidates", "seeds"):
        return 0
    return 2 if name in ("revenue6", "categories") else 4


def format_rows(lines: Iterable[Row]) -> list[Row]:
    """Lines of `over_seeds` as text cells: each figure with its spread."""
    return [
        {
            name: format_metric(line, name, _digits(name)) if isinstance(value, float) else str(value)
            for name, value in line.items()
            if not name.endswith("_sd") and value is not None
        }
        for line in lines
    ]


def text_table(rows: Sequence[Row]) -> str:
    """Dicts as aligned text: all keys in the order in which they appear; blank where one is missing."""
    if not rows:
        return "(nothing)"
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def leaderboard_table(rows: Iterable[Row]) -> str:
    """The leaderboard as text, one block per slice; mean ± standard deviation over several seeds."""
    parts: dict[str, list[Row]] = {}
    for line in summarize_leaderboard(rows):
        parts.setdefault(line["slice"], []).append(line)
    blocks = []
    for part, lines in parts.items():
        shown = [{name: line[name] for name in ("system", "order", "seeds")} for line in lines]
        for row, line in zip(shown, lines, strict=True):
            row |= {metric: format_metric(line, metric, _digits(metric)) for metric in METRICS}
        blocks.append(f"{part} ({lines[0]['checkouts']:,} checkouts)\n{text_table(shown)}")
    return "\n\n".join(blocks)


def write_json(content: Any, path: Path) -> None:
    """Write rows or a report as JSON; a number that is not finite becomes null."""
    text = json.dumps(_replace_nonfinite(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, text + "\n")


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nonfinite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


METRICS = ("ndcg6", "hit6", "precision6", "revenue6")
