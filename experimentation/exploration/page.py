"""The page of the exploration study: the values for the template in reporting."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from experimentation.exploration.comparison import (
    DISCOVERY_IMPRESSIONS,
    FULL_FEEDBACK,
    NEW_ITEM_FOLLOW_DAYS,
    NO_EXPLORATION,
    ORACLE,
    TOP_ITEM_SHARE,
    Row,
)
from reporting.charts import Chart, linear_axis
from reporting.dot_plot import Interval, dot_plot
from reporting.elements import Column, Figure, Head, KeyFigure, Table, verdict
from reporting.formatting import (
    MINUS,
    MISSING,
    format_interval,
    format_percent,
    format_signed,
    format_signed_percent,
)
from reporting.render import render

LEGEND = (("blue", "ε slot, as served"), ("orange", "Thompson sampling"), ("green", "LinUCB"),
          ("grey", "no exploration, and bounds"))  # fmt: skip
COLOURS = {"ε": "blue", "T": "orange", "L": "green"}  # by the first letter of a policy
APPEALS = {
    "weak appeal (simulator)": "clicks follow an item's hidden appeal with 0.15 logits per standard "
    "deviation and purchases do not follow it, as in the simulated market of "
    "docs/explanation/simulated_market.md.",
    "strong appeal (as in baskets)": "clicks and purchases follow it with 0.8 logits more, as "
    "baskets do in that market.",
}
RANDOM = "random"
RowsByAppeal = dict[str, dict[str, Row]]  # appeal → policy → metrics


def page(rows: Sequence[Row], seeds: int, days: int) -> str:
    """Return the page for the rows of comparison.py."""
    by_appeal = {
        appeal: {row["policy"]: row for row in rows if row["appeal"] == appeal} for appeal in APPEALS
    }
    return render(
        "exploration.html",
        Head(
            title="Exploration: regret by policy",
            answer=_answer(by_appeal),
            figures=_key_figures(by_appeal),
            source=[
                ("Data", f"{seeds:,} simulated shops for each appeal, {days:,} days each"),
                ("All numbers", "exploration.json in the page's folder"),
            ],
        ),
        seeds=seeds,
        days=days,
        appeals=APPEALS,
        gain=_gain_section(by_appeal),
        regret=_regret_section(by_appeal, days),
        new_items=_new_items_section(by_appeal),
        tables=_policy_tables(by_appeal),
    )


def _best_policy(rows: dict[str, Row]) -> tuple[str, Row]:
    """The policy of highest revenue among the policies that a real shop can run."""
    policies = [pair for pair in _plotted_policies(rows) if pair[0] not in (NO_EXPLORATION, FULL_FEEDBACK)]
    return max(policies, key=lambda pair: pair[1]["gain"])


def _answer(by_appeal: RowsByAppeal) -> str:
    sentences = []
    for appeal, rows in by_appeal.items():
        name, row = _best_policy(rows)
        sentences.append(
            f"With {appeal}, {name} earns {format_percent(row['gain'], 2)} more revenue than no exploration."
            if row["gain_low"] > 0
            else f"With {appeal}, no policy earns significantly more revenue than no exploration."
        )
    return " ".join(sentences)


def _key_figures(by_appeal: RowsByAppeal) -> list[KeyFigure]:
    """The regret of the best policy beside the regret without exploration."""
    cards = []
    for appeal, rows in by_appeal.items():
        name, row = _best_policy(rows)
        cards.append(
            KeyFigure(
                f"Regret of {name}, {appeal}; lower is better",
                format_percent(row["regret"], 2),
                f"no exploration: {format_percent(rows[NO_EXPLORATION]['regret'], 2)}",
                f"revenue {format_signed_percent(row['gain'], 2)} ({_interval_percent(row, 'gain')})",
                verdict(row["gain_low"], row["gain_high"]),
            )
        )
    return cards


def _interval_percent(row: Row, name: str) -> str:
    low, high = (format_signed_percent(row[f"{name}_{end}"], 2) for end in ("low", "high"))
    return f"{low} to {high}"


def _gain_section(by_appeal: RowsByAppeal) -> dict[str, Any]:
    """The section on the revenue that each policy gains compared with no exploration."""
    groups, ends = [], [0.0]
    for appeal, rows in by_appeal.items():
        dots = []
        for name, row in _plotted_policies(rows):
            if name == NO_EXPLORATION:
                continue
            value, low, high = (100 * row[end] for end in ("gain", "gain_low", "gain_high"))
            tip = f"{name}: {_interval(row, 'gain')}%"
            dots.append((name, [Interval(value, low, high, _colour(name), tip)]))
            ends += [low, high]
        groups.append((appeal.capitalize(), dots))
    axis = linear_axis("revenue gain over no exploration, % of the oracle's revenue", ends)
    bounds = " and ".join(
        f"{rows[FULL_FEEDBACK]['gain']:.2%} of revenue with {appeal}" for appeal, rows in by_appeal.items()
    )
    chart = partial(dot_plot, groups, axis, 0.0, "Revenue gain over no exploration")
    return {
        "finding": f"Exploration can gain at most {bounds}: the gain of full feedback.",
        "figure": Figure(chart, "The dashed line is no exploration.", LEGEND),
    }


def _regret_section(by_appeal: RowsByAppeal, days: int) -> dict[str, Any]:
    """Cumulative regret by day."""
    charts = []
    for appeal, rows in by_appeal.items():
        draw = partial(_regret_chart, rows, appeal, days)
        charts.append(Figure(draw, f"{appeal.capitalize()}.", LEGEND, width=760))
    losses = "; ".join(
        f"{rows[NO_EXPLORATION]['regret_days'][-1]:.2f} days of revenue with {appeal} "
        f"({rows[FULL_FEEDBACK]['regret_days'][-1]:.2f} with full feedback)"
        for appeal, rows in by_appeal.items()
    )
    return {"finding": f"Without exploration, {days} days lose {losses}.", "figures": charts}


def _regret_chart(rows: dict[str, Row], appeal: str, days: int, width: int) -> Markup:
    highest = max(row["regret_days"][-1] for _, row in _plotted_policies(rows))
    y = linear_axis("cumulative regret, days of the oracle's revenue", [0, highest], from_zero=True)
    chart = Chart(linear_axis("day", [0, days], from_zero=True), y, width=width, height=400, right=160)
    for name, row in _plotted_policies(rows):
        chart.line(list(enumerate([0.0, *row["regret_days"]])), _colour(name))
    chart.end_labels([(row["regret_days"][-1], name) for name, row in _plotted_policies(rows)])
    return chart.svg(f"Cumulative regret by day, {appeal}")


def _new_items_section(by_appeal: RowsByAppeal) -> dict[str, Any]:
    """Impressions of the best new items against the revenue gain."""
    charts, shares = [], []
    for appeal, rows in by_appeal.items():
        points = [
            (name, 100 * row["gain"], row["top_new_impressions"] / rows[ORACLE]["top_new_impressions"])
            for name, row in _plotted_policies(rows)
        ]
        caption = f"{appeal.capitalize()}. The dashed line is the oracle."
        charts.append(Figure(partial(_new_items_chart, points, appeal), caption, LEGEND, width=760))
        share = rows[NO_EXPLORATION]["top_new_impressions"] / rows[ORACLE]["top_new_impressions"]
        shares.append(f"{share:.0%} with {appeal}")
    return {
        "finding": f"Share of the oracle's impressions without exploration: {', '.join(shares)}.",
        "top_share": TOP_ITEM_SHARE,
        "follow_days": NEW_ITEM_FOLLOW_DAYS,
        "figures": charts,
    }


def _new_items_chart(points: Sequence[tuple[str, float, float]], appeal: str, width: int) -> Markup:
    """Impressions over the oracle's (y) by revenue gain in percent (x) of (policy, x, y)."""
    x_axis = linear_axis(
        "revenue gain over no exploration, % of the oracle's revenue", [x for _, x, _ in points]
    )
    y_axis = linear_axis(
        "impressions / the oracle's impressions", [0, 1, *(y for _, _, y in points)], from_zero=True
    )
    chart = Chart(x_axis, y_axis, width=width, height=400)
    chart.reference_line((x_axis.low, 1.0), (x_axis.high, 1.0))
    for name, x, y in points:
        tip = f"{name}: {format_signed(x)}%, {y:.2f} of the oracle's impressions"
        chart.dot(x, y, _colour(name), tip, 5)
    for name, x, y in points:
        chart.label(x, y, name)
    return chart.svg(f"New items, {appeal}")


def _policy_tables(by_appeal: RowsByAppeal) -> list[tuple[str, Table]]:
    """All metrics of all policies; the last table explains the columns."""
    columns = [
        Column("policy", lambda row: row["policy"], numeric=False),
        Column("regret, %", _percent_cell("regret"), "of the oracle's revenue"),
        Column("gain, %", lambda row: _interval(row, "gain"), "over no exploration: learned minus cost"),
        Column("learned", _percent_cell("learning_gain"), "gain of the slates that the policy believes best"),
        Column("cost", _percent_cell("exploration_cost"), "revenue lost by showing other slates"),
        Column("new", _percent_cell("new_item_revenue"), "revenue from items that arrived in these days"),
        Column("share", _percent_cell("new_item_share"), "of all impressions, for these items"),
        Column("best", lambda row: f"{row['top_new_impressions']:.0f}", "impressions of an item among the "
               f"most valuable {TOP_ITEM_SHARE:.0%} of them in its first {NEW_ITEM_FOLLOW_DAYS} days"),
        Column("gain of best", _discovery_gain, "these impressions, minus those without exploration"),
        Column("wait", lambda row: f"{row['days_to_discovery']:.1f}",
               f"days until such an item has {DISCOVERY_IMPRESSIONS} impressions; "
               f"at most {NEW_ITEM_FOLLOW_DAYS}"),
    ]  # fmt: skip
    plain = [column._replace(description="") for column in columns]
    last = list(by_appeal)[-1]
    return [
        (appeal.capitalize(), Table(columns if appeal == last else plain, list(rows.values()), _row_class))
        for appeal, rows in by_appeal.items()
    ]


def _plotted_policies(rows: dict[str, Row]) -> Iterable[tuple[str, Row]]:
    """All policies except `random` and the oracle.

    The values of `random` are too large for the charts' scales. The oracle is the reference.
    """
    return [(name, row) for name, row in rows.items() if name not in (RANDOM, ORACLE)]


def _colour(policy: str) -> str:
    return COLOURS.get(policy[0], "grey")


def _row_class(row: Row) -> str:
    return "bound" if row["policy"] in (RANDOM, FULL_FEEDBACK, ORACLE) else ""


def _percent_cell(name: str) -> Callable[[Row], str]:
    return lambda row: _percent(row, name)


def _percent(row: Row, name: str) -> str:
    return MISSING if row.get(name) is None else f"{round(100 * row[name], 2) + 0.0:.2f}".replace("-", MINUS)


def _interval(row: Row, name: str) -> str:
    return f"{_percent(row, name)} ({_percent(row, f'{name}_low')} to {_percent(row, f'{name}_high')})"


def _discovery_gain(row: Row) -> str:
    gain, low, high = (round(row[f"top_new_impressions_gain{end}"], 0) + 0.0 for end in ("", "_low", "_high"))
    return f"{format_signed(gain, 0)} ({format_interval(low, high, 0)})"
