"""What exploring costs, teaches and brings new items, as one HTML page that loads nothing else."""

from collections.abc import Iterable, Sequence
from functools import partial
from html import escape

from experimentation.exploration.comparison import (
    DISCOVERY_IMPRESSIONS,
    FULL_FEEDBACK,
    NEW_ITEM_FOLLOW_DAYS,
    NO_EXPLORATION,
    ORACLE,
    TOP_ITEM_SHARE,
    Row,
)
from reporting.charts import Chart, Interval, dot_plot, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, section, table

TITLE = "Exploration, by regret"
LEGEND = (("ours", "ε slot, as served"), ("rival", "Thompson sampling"), ("third", "LinUCB"),
           ("other", "no exploring, and bounds"))  # fmt: skip
APPEAL_DESCRIPTIONS = {
    "as simulated": "clicks answer to an item's hidden appeal with .15 logits a standard deviation, "
    "purchases not at all, as in the simulated marketplace of docs/simulated.md.",
    "as in baskets": "clicks and purchases answer to it with .8 logits more, as baskets do there.",
}
RANDOM = "random"
RowsByAppeal = dict[str, dict[str, Row]]  # how people answer to appeal → policy → what was measured


def page(rows: Sequence[Row], seeds: int, days: int) -> str:
    """The page of the rows of compare.py."""
    kinds = {
        kind: {row["policy"]: row for row in rows if row["answers"] == kind} for kind in APPEAL_DESCRIPTIONS
    }
    about = (
        f"{seeds} simulated shops of each kind, followed for {days} days in which new items arrive. All "
        "policies learn from their own slates by one learner. Regret is what the oracle, who knows the "
        "truth, earns more, and shares are of what it earns. Intervals are 95 %, over shops."
    )
    end = (
        "Made by python -m experimentation.exploration; exploration.json beside this page holds every "
        "figure. Nothing is learned here of what sells elsewhere in the shop, which the served ranker reads."
    )
    parts = [paragraph(about)]
    parts += [paragraph(f"Appeal {kind}: {said}", "soft") for kind, said in APPEAL_DESCRIPTIONS.items()]
    parts += [_gains(kinds), _regret(kinds, days), _new_items_section(kinds), _figures(kinds)]
    parts.append("<h2>Where this comes from</h2>" + paragraph(end, "soft"))
    return document(TITLE, *parts)


def _gains(kinds: RowsByAppeal) -> str:
    """What each earns more than no exploring."""
    groups, ends = [], [0.0]
    for kind, rows in kinds.items():
        lines = []
        for name, row in _plotted_policies(rows):
            if name == NO_EXPLORATION:
                continue
            value, low, high = (100 * row[end] for end in ("gain", "gain_low", "gain_high"))
            lines.append(
                (name, [Interval(value, low, high, _css(name), f"{name}: {_format_interval('gain', row)} %")])
            )
            ends += [low, high]
        groups.append((f"Appeal {kind}", lines))
    worth = "; ".join(f"{rows[FULL_FEEDBACK]['gain']:.2%} of revenue {kind}" for kind, rows in kinds.items())
    chart = dot_plot(
        groups, linear_axis("revenue against no exploring, % of the oracle's", ends), 0.0, "gain"
    )
    return section(
        "gain", "Does exploring pay?", f"Knowing all answers, the most that it can teach, is worth {worth}.",
        figure(chart, "The dashed line is no exploring.", legend(*LEGEND)),
    )  # fmt: skip


def _regret(kinds: RowsByAppeal, days: int) -> str:
    """Cumulative regret by day."""
    charts = []
    for kind, rows in kinds.items():
        most = max(row["days_lost"][-1] for _, row in _plotted_policies(rows))
        y = linear_axis("regret so far, days of the oracle's revenue", [0, most], from_zero=True)
        chart = Chart(linear_axis("day", [0, days], from_zero=True), y, width=760, height=400, right=160)
        for name, row in _plotted_policies(rows):
            chart.line(list(enumerate([0.0, *row["days_lost"]])), _css(name))
        chart.end_labels([(row["days_lost"][-1], name) for name, row in _plotted_policies(rows)])
        charts.append(figure(chart.svg(f"regret by day, {kind}"), f"Appeal {kind}.", legend(*LEGEND)))
    lost = "; ".join(
        f"{rows[NO_EXPLORATION]['days_lost'][-1]:.2f} days of revenue {kind}, with all answers known "
        f"{rows[FULL_FEEDBACK]['days_lost'][-1]:.2f}"
        for kind, rows in kinds.items()
    )
    return section("regret", "How does regret grow?", f"Without exploring {days} days lose {lost}.", *charts)


def _new_items_section(kinds: RowsByAppeal) -> str:
    """What exploring costs beside what the best new items get."""
    charts, said = [], []
    for kind, rows in kinds.items():
        points = [
            (name, 100 * row["gain"], row["new_best"] / rows[ORACLE]["new_best"])
            for name, row in _plotted_policies(rows)
        ]
        x_axis = linear_axis("revenue against no exploring, % of the oracle's", [x for _, x, _ in points])
        y_axis = linear_axis(
            "impressions against the oracle's", [0, 1, *(y for _, _, y in points)], from_zero=True
        )
        chart = Chart(x_axis, y_axis, width=760, height=400)
        chart.line([(x_axis.low, 1.0), (x_axis.high, 1.0)], "other zero")
        for name, x, y in points:
            chart.dot(x, y, _css(name), f"{name}: {x:+.2f} %, {y:.2f} of the oracle's impressions", 5)
        for name, x, y in points:
            chart.label(x, y, name)
        caption = f"Appeal {kind}; the line is how often the oracle shows them."
        charts.append(figure(chart.svg(f"new items, {kind}"), caption, legend(*LEGEND)))
        said.append(f"{rows[NO_EXPLORATION]['new_best'] / rows[ORACLE]['new_best']:.0%} {kind}")
    about = (
        f"How often the most valuable {TOP_ITEM_SHARE:.0%} of the new items are shown in their first {NEW_ITEM_FOLLOW_DAYS} days, "
        "beside what exploring costs."
    )
    finding = f"Of the impressions that the oracle gives the best, not exploring gives {' and '.join(said)}."
    return section("new", "What do new items get?", finding, paragraph(about, "soft"), *charts)


def _figures(kinds: RowsByAppeal) -> str:
    columns = [
        Column("policy", lambda row: row["policy"], numeric=False),
        Column("regret, %", partial(_percent, "regret"), "of the oracle's revenue"),
        Column("gain, %", partial(_format_interval, "gain"), "revenue against no exploring: taught less paid"),
        Column("taught", partial(_percent, "taught"), "what the slates that it believes in earn more"),
        Column("paid", partial(_percent, "paid"), "what it gave up by showing others; below 0 it gained"),
        Column("new", partial(_percent, "new_revenue"), "revenue from items that arrived in these days"),
        Column("share", partial(_percent, "new_share"), "of all impressions, that those items get"),
        Column("best", lambda row: f"{row['new_best']:.0f}", f"impressions of one of the most valuable "
               f"{TOP_ITEM_SHARE:.0%} of them in its first {NEW_ITEM_FOLLOW_DAYS} days"),
        Column("more", _format_discovery_gain, "of these than without exploring"),
        Column("wait", lambda row: f"{row['new_wait']:.1f}", f"days until one of those has {DISCOVERY_IMPRESSIONS} "
               f"impressions; {NEW_ITEM_FOLLOW_DAYS} at most"),
    ]  # fmt: skip
    plain = [column._replace(description="") for column in columns]
    parts = []
    for kind, rows in kinds.items():
        explained = columns if kind == list(kinds)[-1] else plain
        parts.append(f"<h3>Appeal {escape(kind)}</h3>" + table(explained, rows.values(), _row_css))
    return section("figures", "All figures", "", *parts)


def _plotted_policies(rows: dict[str, Row]) -> Iterable[tuple[str, Row]]:
    """What is drawn: random is off every scale, the oracle is the measure."""
    return [(name, row) for name, row in rows.items() if name not in (RANDOM, ORACLE)]


def _css(name: str) -> str:
    return {"ε": "ours", "T": "rival", "L": "third"}.get(name[0], "other")


def _row_css(row: Row) -> str:
    return "ceiling" if row["policy"] in (RANDOM, FULL_FEEDBACK, ORACLE) else ""


def _percent(name: str, row: Row) -> str:
    return "–" if row.get(name) is None else f"{round(100 * row[name], 2) + 0.0:.2f}"


def _format_discovery_gain(row: Row) -> str:
    more, low, high = (row[f"new_best_gain{end}"] for end in ("", "_low", "_high"))
    return f"{round(more, 0) + 0.0:+.0f} ({round(low, 0) + 0.0:+.0f} to {round(high, 0) + 0.0:+.0f})"


def _format_interval(name: str, row: Row) -> str:
    return f"{_percent(name, row)} ({_percent(f'{name}_low', row)} to {_percent(f'{name}_high', row)})"
