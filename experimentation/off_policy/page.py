"""Estimates with their intervals as one HTML page that loads nothing else."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from experimentation.off_policy.evaluate import LOG_MEAN, PRIMARY_ESTIMATOR, PolicyEvaluation
from reporting.charts import DotRow, Interval, dot_plot, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, section, table

Row = dict[str, Any]
LEGEND = (("ours", "decides"), ("other", "other estimators"), ("rival", "what was logged"))
MODEL_ASSUMPTIONS = {
    "position": "a slot's reward is the item's, times how often the slot is seen",
    "slot": "a slot's reward depends on the item and the slot",
    "cascade": "a slot's reward depends on the items above it too",
    "slate": "a slot's reward depends on the whole slate",
    "": "no weights",
}


def page(judged: PolicyEvaluation, title: str, about: Sequence[str], said: Sequence[str]) -> str:
    """The page; `about` says what was judged by what, `said` what came out."""
    parts = [paragraph(line) for line in about]
    parts += [paragraph(line, "finding") for line in said]
    for reward in dict.fromkeys(row["reward"] for row in judged.estimates):
        rows = [row for row in judged.estimates if row["reward"] == reward]
        chart = figure(_plot(rows, reward), "The dashed line is the log's own mean.", legend(*LEGEND))
        parts.append(section(reward, f"{reward.capitalize()} per checkout", "", chart, _table(rows)))
    parts.append(section("weights", "What the weights are worth", "", _diagnostics_table(judged)))
    return document(title, *parts)


def _css(row: Row) -> str:
    if (row["estimator"], row["weights"]) == PRIMARY_ESTIMATOR:
        return "ours"
    return "rival" if row["estimator"] == LOG_MEAN else "other"


def _plot(rows: Sequence[Row], reward: str) -> str:
    groups: dict[str, list[DotRow]] = {}
    for row in rows:
        tip = f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        dot = Interval(row["value"], row["low"], row["high"], _css(row), tip)
        groups.setdefault(MODEL_ASSUMPTIONS[row["weights"]], []).append((row["estimator"], [dot]))
    ends = [row[end] for row in rows for end in ("low", "high") if row[end] == row[end]]
    axis = linear_axis(f"{reward} per checkout", ends)
    mark = next(row["value"] for row in rows if row["estimator"] == LOG_MEAN)
    return dot_plot(list(groups.items()), axis, mark, f"{reward} per checkout, by estimator")


def _table(rows: Sequence[Row]) -> str:
    columns = [
        Column("estimator", lambda row: row["estimator"], numeric=False),
        Column("weights", lambda row: row["weights"], numeric=False),
        Column("estimate", partial(_span, "value", "low", "high")),
        Column("difference to the log", partial(_span, "difference", "from", "to")),
        Column("verdict", lambda row: row["verdict"], numeric=False),
    ]
    return table(columns, rows, lambda row: "ours" if _css(row) == "ours" else "")


def _span(value: str, low: str, high: str, row: Row) -> str:
    return f"{row[value]:.4f} ({row[low]:.4f} to {row[high]:.4f})"


def _diagnostics_table(judged: PolicyEvaluation) -> str:
    rows = [{"weights": name, **state._asdict()} for name, state in judged.health.items()]
    columns = [
        Column("weights", lambda row: row["weights"], numeric=False),
        Column("sessions", lambda row: f"{row['sessions']:,}"),
        Column(
            "effective", lambda row: f"{row['effective_sample_size']:,.0f}", "sessions of the new policy worth as much"
        ),
        Column("largest", lambda row: f"{row['max_weight']:,.1f}", "the largest weight"),
        Column(
            "with support",
            lambda row: "{value:.0%} ({low:.0%} to {high:.0%})".format(**row["support"]._asdict()),
            "share of what the new policy shows that the log could have shown, as often as it is seen",
        ),
    ]
    said = "".join(
        paragraph(f"{name}: {line}", "alarm") for name, lines in judged.warnings.items() for line in lines
    )
    return table(columns, rows) + said
