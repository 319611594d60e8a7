"""The days of the loop as one HTML page that loads nothing else."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from operations.loop.simulate import SimulationPlan
from reporting.charts import Chart, linear_axis
from reporting.markup import Column, document, figure, legend, paragraph, section, table

Row = dict[str, Any]
SERIES = (("oracle", "third", "oracle"), ("revenue", "ours", "Sextet"), ("rules", "other", "old rules"),
         ("popularity", "rival", "popularity"))  # fmt: skip


def page(rows: Sequence[Row], found: Row, plan: SimulationPlan) -> str:
    """The page; `found` is the summary of the rows."""
    title = f"The loop over {len(rows)} days"
    said = (
        f"Revenue per session {found['revenue']:.2f}: {found['of_popularity']:.2f} times popularity, "
        f"{found['of_oracle']:.2f} of the oracle."
    )
    about = (
        f"{sum(row['sessions'] for row in rows):,} checkouts of simulated people. For {plan.rule_days} days the "
        "shop's old rules filled the slates; from day 1 Sextet does, learns every night from its own log, "
        "and publishes what passes the gates."
    )
    parts = [
        paragraph(about), paragraph(said, "verdict good"),
        section("revenue", "What a session earns", "",
                figure(_plot(rows), "True expected spend on the six after the same checkouts. A dot is "
                       "a night that published.", legend(*((css, name) for _, css, name in SERIES)))),
        section("days", "Day by day", _decisions(rows), _table(rows)),
    ]  # fmt: skip
    return document(title, *parts)


def _plot(rows: Sequence[Row]) -> str:
    values = [row[name] for row in rows for name, _, _ in SERIES]
    days = linear_axis("day", [row["day"] for row in rows])
    chart = Chart(days, linear_axis("revenue per session", values, from_zero=True), width=720, right=90)
    for name, css, _ in SERIES:
        chart.line([(row["day"], row[name]) for row in rows], css)
    for row in rows:
        published = row["decision"].startswith("published")
        said = f"day {row['day']}: {row['decision']}"
        if published or row["poisoned"]:
            chart.dot(row["day"], row["revenue"], "rival" if row["poisoned"] else "ours", said, 4)
        if row["poisoned"]:
            chart.label(row["day"], row["revenue"], "labels shuffled")
    chart.end_labels([(rows[-1][name], text) for name, _, text in SERIES])
    return chart.svg("revenue per session by day: oracle, Sextet, old rules, popularity")


def _decisions(rows: Sequence[Row]) -> str:
    published = sum(row["decision"].startswith("published") for row in rows)
    said = f"{published} of {len(rows)} nights a challenger was published."
    for row in rows:
        if row["poisoned"]:
            stopped = not row["decision"].startswith("published")
            said += f" On day {row['day']} labels were shuffled, and the gates "
            said += "stopped what had learned from them." if stopped else "let it pass."
    return said


def _money(name: str, row: Row) -> str:
    return f"{row[name]:.2f}"


def _table(rows: Sequence[Row]) -> str:
    columns = [
        Column("day", lambda row: str(row["day"])),
        Column("sessions", lambda row: str(row["sessions"])),
        *(Column(text, partial(_money, name)) for name, _, text in reversed(SERIES)),
        Column("of oracle", lambda row: f"{row['revenue'] / row['oracle']:.3f}",
               "Sextet's revenue per session over the oracle's, which knows everybody's taste."),
        Column("bought", lambda row: f"{row['bought']:.2f}",
               "Spent on what slates had led to, as it became known that day, per session."),
        Column("that night", lambda row: row["decision"], numeric=False),
    ]  # fmt: skip
    return table(columns, rows)
