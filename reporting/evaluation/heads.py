"""The section of the page about predictions: quality of the heads, reliability, calibration by slice."""

from functools import partial
from operator import itemgetter
from typing import Any

from reporting.elements import Column, Figure, Table
from reporting.evaluation import figures
from reporting.tables import Row, aggregate_seeds, format_metric

MIN_PAIRS = 1000  # candidates of a slice that the finding may name


def calibration_section(report: Row) -> dict[str, Any]:
    """Heads, reliability curves and slices."""
    quality = [
        Column("system", partial(figures.system_label, report), numeric=False),
        Column("head", itemgetter("head"), numeric=False),
        Column("AUC", partial(format_metric, name="auc"),
               "probability that a positive candidate scores above a negative one; 0.5 is random"),
        Column("ECE", partial(format_metric, name="ece"),
               "mean distance between predicted and observed share over 15 bins of equal size"),
        Column("predicted / observed", partial(format_metric, name="predicted_over_observed", digits=3),
               "over all candidates; for value, the spend on purchased items"),
        Column("log loss", partial(format_metric, name="log_loss"), "mean negative log likelihood, in nats"),
    ]  # fmt: skip
    ratios = Figure(
        figures.calibration_ratio_chart(report["calibration"]),
        "Right of 1 the model predicts too much. Popularity is the number of orders with the item in the "
        "28 days before; price is its usual price; both are in deciles of the candidates. Values outside "
        "the axis are drawn at its end.",
        [("green", "click"), ("blue", "purchase"), ("orange", "value, of purchased items")],
    )
    return {
        "finding": _calibration_finding(report),
        "quality": Table(quality, aggregate_seeds(report["heads"], ("system", "head"))),
        "reliability": [
            Figure(figures.reliability_diagram(report["curves"], task)) for task in figures.TASK_COLOURS
        ],
        "ratios": ratios,
        "slices": _slice_table(report["calibration"]),
    }


def _calibration_finding(report: Row) -> str:
    rows = [row for row in report["calibration"] if row["head"] == "purchase" and row["ratio"]]
    worst = max(rows, key=lambda row: max(row["ratio"], 1 / row["ratio"]) * (row["pairs"] > MIN_PAIRS))
    return (
        f"Purchases: {rows[0]['predicted']:.2%} predicted, {rows[0]['observed']:.2%} observed over all "
        f"candidates. Largest error: {worst['group']} “{figures.slice_label(worst)}”, predicted / observed "
        f"{worst['ratio']:.2f}."
    )


def _slice_table(rows: list[Row]) -> Table:
    columns = [
        Column("head", itemgetter("head"), numeric=False),
        Column("group", itemgetter("group"), numeric=False),
        Column("slice", figures.slice_label, numeric=False),
        Column("candidates", lambda row: f"{row['pairs']:,}"),
        Column("predicted", lambda row: f"{row['predicted']:.4f}"),
        Column("observed", lambda row: f"{row['observed']:.4f}"),
        Column("ratio", partial(format_metric, name="ratio", digits=3)),
        Column("ECE", partial(format_metric, name="ece")),
    ]
    return Table(columns, sorted(rows, key=itemgetter("head")))
