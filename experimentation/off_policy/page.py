"""Estimates with their intervals as one HTML page that loads nothing else."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from experimentation.off_policy.evaluate import DECIDES, LOGGED, Judged
from reporting.charts import Interval, Line, dot_plot, linear
from reporting.markup import Column, document, figure, key, paragraph, section, table

Row = dict[str, Any]
COLOURS = (("ours", "decides"), ("other", "other estimators"), ("rival", "what was logged"))
ASSUMES = {
    "position": "a slot's reward is the item's, times how often the slot is seen",
    "slot": "a slot's reward depends on the item and the slot",
    "cascade": "a slot's reward depends on the items above it too",
    "slate": "a slot's reward depends on the whole slate",
    "": "no weights",
}


def page(judged: Judged, title: str, about: Sequence[str], said: Sequence[str]) -> str:
    """The page; `about` says what was judged by what, `said` what came out."""
    parts = [paragraph(line) for line in about]
    parts += [paragraph(line, "finding") for line in said]
    for reward in dict.fromkeys(row["reward"] for row in judged.rows):
        rows = [row for row in judged.rows if row["reward"] == reward]
        chart = figure(_plot(rows, reward), "The dashed line is the log's own mean.", key(*COLOURS))
        parts.append(section(reward, f"{reward.capitalize()} per checkout", "", chart, _table(rows)))
    parts.append(section("weights", "What the weights are worth", "", _health(judged)))
    return document(title, *parts)


def _css(row: Row) -> str:
    if (row["estimator"], row["weights"]) == DECIDES:
        return "ours"
    return "rival" if row["estimator"] == LOGGED else "other"


def _plot(rows: Sequence[Row], reward: str) -> str:
    groups: dict[str, list[Line]] = {}
    for row in rows:
        tip = f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        dot = Interval(row["value"], row["low"], row["high"], _css(row), tip)
        groups.setdefault(ASSUMES[row["weights"]], []).append((row["estimator"], [dot]))
    ends = [row[end] for row in rows for end in ("low", "high") if row[end] == row[end]]
    axis = linear(f"{reward} per checkout", ends)
    mark = next(row["value"] for row in rows if row["estimator"] == LOGGED)
    return dot_plot(list(groups.items()), axis, mark, f"{reward} per checkout, by estimator")


def _table(rows: Sequence[Row]) -> str:
    columns = [
        Column("estimator", lambda row: row["estimator"], number=False),
        Column("weights", lambda row: row["weights"], number=False),
        Column("estimate", partial(_span, "value", "low", "high")),
        Column("difference to the log", partial(_span, "difference", "from", "to")),
        Column("verdict", lambda row: row["verdict"], number=False),
    ]
    return table(columns, rows, lambda row: "ours" if _css(row) == "ours" else "")


def _span(value: str, low: str, high: str, row: Row) -> str:
    return f"{row[value]:.4f} ({row[low]:.4f} to {row[high]:.4f})"


def _health(judged: Judged) -> str:
    rows = [{"weights": name, **state._asdict()} for name, state in judged.health.items()]
    columns = [
        Column("weights", lambda row: row["weights"], number=False),
        Column("sessions", lambda row: f"{row['sessions']:,}"),
        Column(
            "effective", lambda row: f"{row['effective']:,.0f}", "sessions of the new policy worth as much"
        ),
        Column("largest", lambda row: f"{row['largest']:,.1f}", "the largest weight"),
        Column(
            "with support",
            lambda row: "{value:.0%} ({low:.0%} to {high:.0%})".format(**row["supported"]._asdict()),
            "share of what the new policy shows that the log could have shown, as often as it is seen",
        ),
    ]
    said = "".join(
        paragraph(f"{name}: {line}", "alarm") for name, lines in judged.warnings.items() for line in lines
    )
    return table(columns, rows) + said
