"""What exploring costs, teaches and brings new items, as one HTML page that loads nothing else."""

from collections.abc import Sequence
from functools import partial
from html import escape

from evaluation.report.charts import Chart, Interval, dot_plot, linear
from evaluation.report.markup import Column, figure, key, paragraph, section, table
from evaluation.report.style import STYLE
from experimentation.exploration.compare import BEST, FIRST, INFORMED, KNOWN, NONE, ORACLE, Row

TITLE = "Exploration, by regret"
COLOURS = (("ours", "ε slot, as served"), ("rival", "Thompson sampling"), ("third", "LinUCB"),
           ("other", "no exploring, and bounds"))  # fmt: skip
SAYS = {
    "as simulated": "clicks answer to an item's hidden appeal with .15 logits a standard deviation, "
    "purchases not at all, as in the simulated marketplace of docs/simulated.md.",
    "as in baskets": "clicks and purchases answer to it with .8 logits more, as baskets do there.",
}
RANDOM = "random"


def page(rows: Sequence[Row], seeds: int, days: int) -> str:
    """The page of the rows of compare.py."""
    kinds = {kind: [row for row in rows if row["answers"] == kind] for kind in SAYS}
    about = (
        f"{seeds} simulated shops of each kind, followed for {days} days after the warm ones, in which items "
        "arrive. All policies learn from their own slates by one learner; regret is what the oracle, who "
        "knows the truth, earns more, as a share of what it earns. Intervals are 95 %, over shops."
    )
    body = [
        paragraph(about),
        *(paragraph(f"Appeal {kind}: {said}", "soft") for kind, said in SAYS.items()),
    ]
    body += [_gains(kinds), _regret(kinds), _new(kinds), _figures(kinds)]
    body.append("<h2>Where this comes from</h2>" + paragraph(
        "Made by python -m experimentation.exploration; exploration.json beside this page holds every "
        "figure. Nothing is learned here of what sells elsewhere in the shop, which the served ranker reads: "
        "these are the most that exploring could bring it.", "soft"))  # fmt: skip
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f"<title>{escape(TITLE)}</title><style>{STYLE}</style>"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>\n<h1>{escape(TITLE)}</h1>'
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _gains(kinds: dict[str, list[Row]]) -> str:
    """What each earns more than no exploring."""
    groups, ends = [], [0.0]
    for kind, rows in kinds.items():
        lines = []
        for row in rows:
            if row["policy"] in (NONE, RANDOM, ORACLE):
                continue
            low, high = 100 * row["gain_low"], 100 * row["gain_high"]
            tip = f"{row['policy']}: {_percent('gain', row)}"
            lines.append((row["policy"], [Interval(100 * row["gain"], low, high, _css(row), tip)]))
            ends += [low, high]
        groups.append((f"Appeal {kind}", lines))
    best = "; ".join(
        f"{kind}, at most {row['gain']:.2%} of revenue"
        for kind, rows in kinds.items()
        for row in rows
        if row["policy"] == INFORMED
    )
    chart = dot_plot(groups, linear("revenue against no exploring, % of the oracle's", ends), 0.0, "gain")
    return section(
        "gain", "Does exploring pay?", f"What exploring can teach within the days is worth: {best}.",
        figure(chart, "The dashed line is no exploring.", key(*COLOURS)),
    )  # fmt: skip


def _regret(kinds: dict[str, list[Row]]) -> str:
    """Cumulative regret by day."""
    charts = []
    for kind, rows in kinds.items():
        shown = [row for row in rows if row["policy"] not in (RANDOM, ORACLE)]
        days = range(1, 1 + len(shown[0]["days_lost"]))
        most = max(row["days_lost"][-1] for row in shown)
        chart = Chart(linear("day", [0, len(days)], zero=True),
                      linear("regret so far, days of the oracle's revenue", [0, most], zero=True),
                      width=700, height=400, right=170)  # fmt: skip
        for row in shown:
            chart.line([(0, 0), *zip(days, row["days_lost"], strict=True)], _css(row))
        chart.ends([(row["days_lost"][-1], row["policy"]) for row in shown])
        charts.append(figure(chart.svg(f"regret by day, {kind}"), f"Appeal {kind}.", key(*COLOURS)))
    return section("regret", "How does regret grow?", "", *charts)


def _new(kinds: dict[str, list[Row]]) -> str:
    """What exploring costs beside what the best new items get."""
    charts = []
    for kind, rows in kinds.items():
        oracle = next(row for row in rows if row["policy"] == ORACLE)
        shown = [row for row in rows if row["policy"] not in (RANDOM, ORACLE)]
        points = [(100 * row["gain"], row["new_best"] / oracle["new_best"], row) for row in shown]
        x_axis = linear("revenue against no exploring, % of the oracle's", [x for x, _, _ in points])
        y_axis = linear("impressions against the oracle's", [0, 1, *(y for _, y, _ in points)], zero=True)
        chart = Chart(x_axis, y_axis, width=700, height=400)
        chart.line([(chart.x.low, 1.0), (chart.x.high, 1.0)], "other zero")
        for x, y, row in points:
            chart.dot(x, y, _css(row), f"{row['policy']}: {x:+.2f} %, {y:.2f} of the oracle's impressions", 5)
        for x, y, row in points:
            chart.label(x, y, row["policy"])
        caption = f"Appeal {kind}; the line is how often the oracle shows them."
        charts.append(figure(chart.svg(f"new items, {kind}"), caption, key(*COLOURS)))
    said = (
        f"How often the most valuable {BEST:.0%} of the new items are shown in their first {FIRST} days, "
        "against what exploring costs."
    )
    return section("new", "What do new items get?", "", paragraph(said, "soft"), *charts)


def _figures(kinds: dict[str, list[Row]]) -> str:
    columns = [
        Column("policy", lambda row: row["policy"], number=False),
        Column("regret", partial(_percent, "regret"), "of the oracle's revenue"),
        Column("gain", partial(_percent, "gain"), "revenue against no exploring: taught less paid"),
        Column("taught", partial(_percent, "taught"), "what the slates that it believes in earn more"),
        Column("paid", partial(_percent, "paid"), "what it gave up by showing others; below 0, it gained"),
        Column("new: revenue", partial(_short, "new_revenue", ".2%"), "of the oracle's, from items that "
               "arrived in these days"),
        Column("impressions", partial(_short, "new_share", ".1%"), "share that those items get"),
        Column("of the best", partial(_short, "new_best", ".0f"), "impressions of one of the most valuable "
               f"{BEST:.0%} in its first {FIRST} days"),
        Column("days", partial(_short, "new_wait", ".1f"), f"until one of those has {KNOWN}; {FIRST} at "
               "most"),
    ]  # fmt: skip
    parts = []
    for at, (kind, rows) in enumerate(kinds.items()):
        last = at == len(kinds) - 1  # explains the columns
        made = [column if last else column._replace(means="") for column in columns]
        parts.append(f"<h3>Appeal {escape(kind)}</h3>" + table(made, rows, _row_css))
    return section("figures", "All figures", "", *parts)


def _css(row: Row) -> str:
    starts = {"ε": "ours", "T": "rival", "L": "third"}
    return starts.get(row["policy"][0], "other")


def _row_css(row: Row) -> str:
    return "ceiling" if row["policy"] in (RANDOM, INFORMED, ORACLE) else ""


def _percent(name: str, row: Row) -> str:
    if row.get(name) is None:
        return "–"
    return f"{100 * row[name]:.2f} ({100 * row[f'{name}_low']:.2f} to {100 * row[f'{name}_high']:.2f}) %"


def _short(name: str, form: str, row: Row) -> str:
    return format(row[name], form)
