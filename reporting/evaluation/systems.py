"""The sections of the page that compare systems: leaderboard, differences, the frontier, recall."""

from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

from reporting.charts import HALF_WIDTH
from reporting.elements import Column, Figure, Table, verdict
from reporting.evaluation import figures
from reporting.formatting import format_interval, format_money, format_signed
from reporting.tables import Row, aggregate_seeds, by_column, format_metric, summarize_leaderboard

SLICE_TEXTS = {
    "all": (
        "All checkouts",
        "Every checkout with a later purchase counts, with all items that the user buys.",
    ),
    "discovery": (
        "Discovery: items that the user never bought before",
        "Only items that are new to the user count. Slates leave out all other items.",
    ),
    "cold_users": ("Cold users", "Users with fewer than 5 earlier checkouts."),
    "new_items": ("New items", "Only items first sold in the 28 days before the checkout count."),
}
COLUMN_TEXTS = {
    "order": "the score that sorts a slate; expected value is the probability of a purchase × expected spend",
    "ndcg6": "1 if all purchases are at the top of the six, 0 if none is among them",
    "hit6": "share of checkouts after which the user buys one of the six items or more",
    "precision6": "share of the six items that the user buys",
    "revenue6": "money that the user spends on the six items within the horizon, per checkout",
}


def leaderboard_section(report: Row) -> dict[str, Any]:
    """The section with the leaderboard: a table per slice, the best system first."""
    slices = []
    for name, (heading, description) in SLICE_TEXTS.items():
        rows = [row for row in summarize_leaderboard(report["leaderboard"]) if row["slice"] == name]
        if not rows or not rows[0]["checkouts"]:
            continue
        table = _leaderboard_table(report, rows, COLUMN_TEXTS if name == "all" else {})
        slices.append(
            {
                "heading": heading,
                "about": f"{description} {rows[0]['checkouts']:,} checkouts.",
                "table": table,
            }
        )
    return {"finding": _leaderboard_finding(report), "slices": slices}


def _leaderboard_finding(report: Row) -> str:
    rows = [
        row
        for row in summarize_leaderboard(report["leaderboard"])
        if row["slice"] == "all" and not figures.is_ideal_ranking(row)
    ]
    winners = []
    for metric, name in (("ndcg6", "NDCG@6"), ("revenue6", "revenue@6")):
        best = max(rows, key=lambda row: row[metric] or 0)
        order = figures.order_label(report, best)
        sorted_by = "" if order == "–" else f", sorted by {order}"
        winners.append(f"Highest {name}: {figures.system_label(report, best)}{sorted_by}.")
    return " ".join(winners)


def _leaderboard_table(report: Row, rows: list[Row], texts: dict[str, str]) -> Table:
    def share(metric: str) -> Callable[[Row], float | None]:
        best = max(row[metric] or 0 for row in rows if not figures.is_ideal_ranking(row))
        return lambda row: None if figures.is_ideal_ranking(row) else (row[metric] or 0) / (best or 1)

    def column(metric: str, name: str, digits: int, bar: bool = False) -> Column:
        cell = partial(format_metric, name=metric, digits=digits)
        return Column(name, cell, texts.get(metric, ""), bar_share=share(metric) if bar else None)

    def row_class(row: Row) -> str:
        if row["system"] == report["system"]:
            return "highlight"
        return "bound" if figures.is_ideal_ranking(row) else ""

    columns = [
        Column("system", partial(figures.system_label, report), numeric=False),
        Column("order", partial(figures.order_label, report), texts.get("order", ""), numeric=False),
        column("ndcg6", "NDCG@6", 4, bar=True),
        column("hit6", "hit@6", 3),
        column("precision6", "precision@6", 3),
        column("revenue6", "revenue@6", 2, bar=True),
    ]
    ordered = sorted(rows, key=lambda row: (figures.is_ideal_ranking(row), -(row["ndcg6"] or 0)))
    return Table(columns, ordered, row_class)


def differences_section(report: Row) -> dict[str, Any]:
    """The section with differences to the strongest baselines, with intervals."""
    rows = report["differences"]
    findings = []
    for row in rows:
        if row["slice"] == "all":
            metric, digits = ("NDCG@6", 4) if row["metric"] == "ndcg6" else ("revenue@6", 2)
            findings.append(
                f"{metric} {format_signed(row['difference'], digits)} against {row['to']}"
                f" ({format_interval(row['low'], row['high'], digits)}: {verdict(row['low'], row['high'])})"
            )
    charts = [
        Figure(
            partial(figures.differences_chart, rows, metric, f"difference in {name}"),
            heading=f"Sorted by {figures.order_name(report, order)}",
            width=HALF_WIDTH,
        )
        for order, metric, name in (("purchase", "ndcg6", "NDCG@6"), ("value", "revenue6", "revenue@6"))
        if any(row["order"] == order for row in rows)
    ]
    return {"finding": "; ".join(findings) + ".", "figures": charts}


def column_section(report: Row) -> dict[str, Any]:
    """The section with a table per column of `evaluation.by`.

    It also names the values of the column with the lowest and the highest NDCG@6.
    """
    findings, tables = [], []
    names = {"ndcg6": "NDCG@6", "hit6": "hit@6", "precision6": "precision@6", "revenue6": "revenue@6"}
    for column, cells in by_column(report["by_column"]).items():
        rows = [row for row in report["by_column"] if row["column"] == column]
        low, high = (choose(rows, key=itemgetter("ndcg6")) for choose in (min, max))
        if len(rows) > 1:
            findings.append(
                f"By {column}, NDCG@6 runs from {low['ndcg6']:.4f} ({low['value']}) to {high['ndcg6']:.4f} "
                f"({high['value']})."
            )
        columns = [Column(column, itemgetter("value"), numeric=False)]
        columns += [Column(names.get(name, name), itemgetter(name)) for name in cells[0] if name != "value"]
        about = "The purchases of items that have the value count." if column.startswith("items.") else ""
        tables.append({"heading": column, "about": about, "table": Table(columns, cells)})
    return {"finding": " ".join(findings), "tables": tables}


def frontier_section(report: Row) -> dict[str, Any] | None:
    """The section on the trade-off between purchases and revenue; None for an objective without amounts."""
    rows = aggregate_seeds(report["frontier"], ("system", "revenue_weight"))
    curve = [row for row in rows if row["system"] == report["system"]]
    if not curve:
        return None
    first, last = curve[0], curve[-1]
    finding = (
        f"From w = 0 to w = 1, revenue@6 goes from {format_money(first['revenue6'])} to "
        f"{format_money(last['revenue6'])} and NDCG@6 from {first['ndcg6']:.4f} to {last['ndcg6']:.4f}."
    )
    objective = report["objective"]
    sorted_by = (
        f"p({report['purchase_task']}) × E[spend]^w"
        if objective["order"] == "value"
        else f"{objective['expression']}, with every amount to the power of w"
    )
    legend = [("blue", report["system"].capitalize()), ("grey", "baselines without training")]
    if any(row["system"] != report["system"] for row in rows):
        legend.insert(1, ("orange", "LightGBM, same candidates"))
    charts = [
        Figure(partial(figures.frontier_chart, report, False), heading="All systems", width=HALF_WIDTH),
        Figure(partial(figures.frontier_chart, report, True), heading="The best systems", width=HALF_WIDTH),
    ]
    return {"finding": finding, "sorted_by": sorted_by, "legend": legend, "figures": charts}


def recall_section(report: Row) -> dict[str, Any]:
    """The section with the recall of every candidate source and of the union of all sources."""
    rows = aggregate_seeds(report["recalls"], ("source",))
    union = next(row for row in rows if row["source"] == "union")
    columns = [
        Column("source", lambda row: row["source"].replace("_", " "), numeric=False),
        Column("candidates", partial(format_metric, name="candidates", digits=0), "mean per checkout"),
        *(
            Column(f"recall@{k}", partial(format_metric, name=f"recall{k}"),
                   bar_share=itemgetter(f"recall{k}"))
            for k in (100, 300, 500)
        ),
        Column("recall", partial(format_metric, name="recall"), "among all candidates of the source",
               bar_share=itemgetter("recall")),
    ]  # fmt: skip
    finding = (
        f"{union['recall']:.1%} of the items that users buy are among the {union['candidates']:,.0f} "
        "candidates of a checkout."
    )
    return {"finding": finding, "table": Table(columns, rows)}
