"""The page of the simulated loop: the values for the template of `reporting`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from operations.loop.simulate import PUBLISHED, SimulationPlan
from reporting.charts import Chart, linear_axis
from reporting.elements import Column, Figure, Head, KeyFigure, Table
from reporting.formatting import format_count, format_money, format_percent, format_signed_percent
from reporting.render import render

Row = dict[str, Any]
SERIES = (
    ("oracle", "green", "oracle"),
    ("revenue", "blue", "Sextet"),
    ("rule_policy", "grey", "rule policy"),
    ("popularity", "orange", "popularity"),
)


def page(rows: Sequence[Row], summary: Row, plan: SimulationPlan) -> str:
    """Return the page of the loop's days and their summary."""
    revenue = Figure(
        partial(_revenue_chart, rows),
        "True expected spend on the six, after the same checkouts. A dot is a night with a published bundle.",
        [(colour, name) for _, colour, name in SERIES],
        width=720,
    )
    return render(
        "loop.html",
        Head(
            title=f"The daily loop over {len(rows)} days",
            answer=_answer(summary),
            status="good" if summary["revenue"] > summary["rule_policy"] else "bad",
            figures=_key_figures(summary),
            source=[
                ("Data", f"simulated market, {sum(row['sessions'] for row in rows):,} checkouts"),
                ("All numbers", "loop.json in the page's folder"),
            ],
        ),
        sessions=sum(row["sessions"] for row in rows),
        rule_days=plan.rule_days,
        revenue=revenue,
        decisions=_decisions_finding(rows),
        table=_days_table(rows),
    )


def _answer(summary: Row) -> str:
    return (
        f"Sextet earns {format_money(summary['revenue'])} per session, popularity "
        f"{format_money(summary['popularity'])} and the rule policy {format_money(summary['rule_policy'])}. "
        f"The oracle, which knows every user's preferences, earns {format_money(summary['oracle'])}."
    )


def _key_figures(summary: Row) -> list[KeyFigure]:
    key = max("rule_policy", "popularity", key=summary.__getitem__)
    name = key.replace("_", " ")
    return [
        KeyFigure(
            "Revenue per session of Sextet, in the market's currency",
            format_money(summary["revenue"]),
            f"{name}: {format_money(summary[key])}",
            format_signed_percent(summary["revenue"] / summary[key] - 1),
        ),
        KeyFigure(
            "Share of the oracle's revenue",
            format_percent(summary["ratio_to_oracle"]),
            f"{name}: {format_percent(summary[key] / summary['oracle'])}",
        ),
        KeyFigure("Nights with a published bundle", format_count(summary["n_published"])),
    ]


def _revenue_chart(rows: Sequence[Row], width: int) -> Markup:
    values = [row[name] for row in rows for name, _, _ in SERIES]
    days = linear_axis("day", [row["day"] for row in rows])
    chart = Chart(days, linear_axis("revenue per session", values, from_zero=True), width=width, right=90)
    for name, colour, _ in SERIES:
        chart.line([(row["day"], row[name]) for row in rows], colour)
    for row in rows:
        if _is_published(row) or row["labels_shuffled"]:
            colour = "orange" if row["labels_shuffled"] else "blue"
            chart.dot(row["day"], row["revenue"], colour, f"day {row['day']}: {row['decision']}", 4)
        if row["labels_shuffled"]:
            chart.label(row["day"], row["revenue"], "labels shuffled")
    chart.end_labels([(rows[-1][name], text) for name, _, text in SERIES])
    return chart.svg("Revenue per session by day: oracle, Sextet, rule policy, popularity")


def _decisions_finding(rows: Sequence[Row]) -> str:
    published = sum(map(_is_published, rows))
    sentences = [f"{published} of {len(rows)} nights published a challenger."]
    for row in rows:
        if row["labels_shuffled"]:
            verb = "published" if _is_published(row) else "stopped"
            sentences.append(f"On day {row['day']} labels were shuffled: the gates {verb} the challenger.")
    return " ".join(sentences)


def _is_published(row: Row) -> bool:
    return row["decision"].startswith(PUBLISHED)


def _money_cell(name: str) -> Callable[[Row], str]:
    return lambda row: format_money(row[name])


def _days_table(rows: Sequence[Row]) -> Table:
    columns = [
        Column("day", lambda row: str(row["day"])),
        Column("sessions", lambda row: format_count(row["sessions"])),
        *(Column(text, _money_cell(name)) for name, _, text in reversed(SERIES)),
        Column("of oracle", lambda row: f"{row['revenue'] / row['oracle']:.1%}",
               "Sextet's revenue per session over the oracle's; the oracle knows every user's preferences"),
        Column("observed", _money_cell("attributed_spend"),
               "spend attributed to slates in the orders that arrived that day, per session"),
        Column("night", lambda row: row["decision"], numeric=False, wide=True),
    ]  # fmt: skip
    return Table(columns, rows)
