"""The page of an off-policy evaluation: the values for the template in reporting."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from experimentation.off_policy.estimators import LOG_MEAN
from experimentation.off_policy.evaluate import PRIMARY_ESTIMATOR, PolicyEvaluation
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE
from reporting.charts import linear_axis
from reporting.dot_plot import DotRow, Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Table, notices
from reporting.formatting import MINUS, MISSING, format_interval, format_signed
from reporting.render import render
from reporting.tables import Row

VERDICT_TEXTS = {
    "better": "it is better",
    "worse": "it is worse",
    "not enough data": "the log has not enough data to tell",
    "no support": "the log has too few of its items to tell",
}
LEGEND = (("blue", "primary estimator"), ("grey", "other estimators"), ("orange", "mean of the log"))
MODEL_ASSUMPTIONS = {
    "position": "position: the item's reward, times the examination probability of its slot",
    "slot": "slot: the reward depends on the item and its slot",
    "cascade": "cascade: the reward depends on the items above too",
    "slate": "slate: the reward depends on the whole slate",
    "": "no weights",
}
CURRENCY_NOTES = {"revenue": ", in the shop's currency"}
REWARD_DIGITS = {"revenue": 2, INCREMENTAL_REVENUE: 2}  # after the point; other rewards have four


def page(evaluation: PolicyEvaluation, title: str, about: Sequence[str]) -> str:
    """Return the page; `about` describes log and bundle."""
    rewards = dict.fromkeys(row["reward"] for row in evaluation.estimates)
    primary = {
        row["reward"]: row
        for row in evaluation.estimates
        if (row["estimator"], row["shopper_model"]) == PRIMARY_ESTIMATOR
    }
    main = primary[INCREMENTAL_REVENUE if INCREMENTAL_REVENUE in primary else "revenue"]
    return render(
        "off_policy.html",
        Head(
            title=title,
            answer=_answer(main),
            status={"better": "good", "worse": "bad"}.get(main["verdict"], ""),  # type: ignore[arg-type]
            notices=notices(
                warnings=[
                    f"{model} weights: {line}"
                    for model, lines in evaluation.warnings.items()
                    for line in lines
                ]
            ),
            figures=[_key_figure(row) for row in primary.values()],
            source=[("Log", " ".join(about))],
        ),
        rewards=[_reward_section(evaluation, reward) for reward in rewards],
        diagnostics=_diagnostics_table(evaluation),
    )


def _answer(row: Row) -> str:
    """A sentence with the primary estimate of the reward that matters to the shop."""
    digits = REWARD_DIGITS.get(row["reward"], 4)
    interval = format_interval(row["difference_low"], row["difference_high"], digits)
    return (
        f"The new bundle's {row['reward']} per checkout is estimated at {row['value']:,.{digits}f}, "
        f"the log's is {row['value'] - row['difference']:,.{digits}f}: {VERDICT_TEXTS[row['verdict']]} "
        f"(difference {format_signed(row['difference'], digits)}, 95% interval {interval})."
    )


def _key_figure(row: Row) -> KeyFigure:
    digits = REWARD_DIGITS.get(row["reward"], 4)
    interval = format_interval(row["difference_low"], row["difference_high"], digits)
    return KeyFigure(
        f"{row['reward'].capitalize()} per checkout of the new bundle{CURRENCY_NOTES.get(row['reward'], '')}",
        f"{row['value']:,.{digits}f}",
        f"log: {row['value'] - row['difference']:,.{digits}f}",
        f"{format_signed(row['difference'], digits)} ({interval})",
        row["verdict"],
    )


def _reward_section(evaluation: PolicyEvaluation, reward: str) -> dict[str, Any]:
    rows = [row for row in evaluation.estimates if row["reward"] == reward]
    return {
        "id": reward.replace(" ", "-"),
        "title": f"{reward.capitalize()} per checkout",
        "estimates": _estimates_figure(rows, reward),
        "table": _estimates_table(rows, REWARD_DIGITS.get(reward, 4)),
    }


def _estimates_figure(rows: Sequence[Row], reward: str) -> Figure:
    groups: dict[str, list[DotRow]] = {}
    for row in rows:
        tip = f"{row['value']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
        dot = Interval(row["value"], row["low"], row["high"], _colour(row), tip)
        groups.setdefault(MODEL_ASSUMPTIONS[row["shopper_model"]], []).append((row["estimator"], [dot]))
    ends = [row[end] for row in rows for end in ("low", "high") if not math.isnan(row[end])]
    axis = linear_axis(f"{reward} per checkout", ends)
    log_mean = next(row["value"] for row in rows if row["estimator"] == LOG_MEAN)
    name = f"{reward.capitalize()} per checkout, by estimator"
    draw = partial(dot_plot, list(groups.items()), axis, log_mean, name)
    return Figure(draw, "The dashed line is the mean of the log.", LEGEND)


def _estimates_table(rows: Sequence[Row], digits: int) -> Table:
    columns = [
        Column("estimator", lambda row: row["estimator"], numeric=False),
        Column("shopper model", lambda row: row["shopper_model"], numeric=False),
        Column("estimate", _interval_cell("value", "low", "high", digits)),
        Column("difference to the log",
               _interval_cell("difference", "difference_low", "difference_high", digits)),
        Column("verdict", lambda row: row["verdict"], numeric=False),
    ]  # fmt: skip
    return Table(columns, rows, lambda row: "highlight" if _colour(row) == "blue" else "")


def _diagnostics_table(evaluation: PolicyEvaluation) -> Table:
    rows = [
        {"model": model, "diagnostics": diagnostics}
        for model, diagnostics in evaluation.weight_diagnostics.items()
    ]
    columns = [
        Column("shopper model", lambda row: row["model"], numeric=False),
        Column("sessions", lambda row: f"{row['diagnostics'].sessions:,}"),
        Column("effective", lambda row: f"{row['diagnostics'].effective_sample_size:,.0f}",
               "sessions of the new policy with the same information"),
        Column("max weight", lambda row: f"{row['diagnostics'].max_weight:,.1f}", "of one logged item"),
        Column("support", lambda row: "{value:.0%} ({low:.0%} to {high:.0%})".format(
                   **row["diagnostics"].support._asdict()),
               "share of the new policy's items that the log could contain, weighted by examination"),
    ]  # fmt: skip
    return Table(columns, rows)


def _colour(row: Row) -> str:
    if (row["estimator"], row["shopper_model"]) == PRIMARY_ESTIMATOR:
        return "blue"
    return "orange" if row["estimator"] == LOG_MEAN else "grey"


def _interval_cell(value: str, low: str, high: str, digits: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        if math.isnan(row[value]):
            return MISSING
        cells = (f"{row[end]:,.{digits}f}".replace("-", MINUS) for end in (value, low, high))
        return "{} ({} to {})".format(*cells)

    return cell
