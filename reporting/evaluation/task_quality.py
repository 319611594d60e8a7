"""The section of the page about predictions: quality by task, reliability, calibration by slice."""

from collections.abc import Iterator
from functools import partial
from operator import itemgetter
from typing import Any

from reporting.charts import HALF_WIDTH
from reporting.elements import Column, Figure, Table
from reporting.evaluation import figures
from reporting.tables import Row, aggregate_seeds, format_metric

MIN_PAIRS = 1000  # candidates of a slice that the finding may name


def calibration_section(report: Row) -> dict[str, Any]:
    """The section with the quality of the tasks, reliability curves, and calibration by slice."""
    colours = figures.task_colours(report)
    ratios = Figure(
        partial(figures.calibration_ratio_chart, report),
        "Right of 1 the model predicts too much. Popularity is the number of orders with the item in the "
        "28 days before; price is its usual price; both are in deciles of the candidates. Values outside "
        "the axis are drawn at its end.",
        [(colours[task["name"]], _measured_label(task)) for task in report["tasks"]],
    )
    with_curve = {curve["task"] for curve in report["curves"]}
    return {
        "finding": _calibration_finding(report),
        "quality": _quality_table(report),
        "reliability": [
            Figure(partial(figures.reliability_diagram, report["curves"], task), width=HALF_WIDTH)
            for task in report["tasks"]
            if task["name"] in with_curve
        ],
        "ratios": ratios,
        "slices": _slice_table(report["calibration"]),
    }


def _quality_table(report: Row) -> Table:
    columns = [
        Column("system", partial(figures.system_label, report), numeric=False),
        Column("task", itemgetter("task"), numeric=False),
        Column("candidates", partial(format_metric, name="pairs", digits=0), _measured_text(report)),
        Column("positives", _positives, "candidates with the event, or with an amount above 0"),
        Column("AUC", partial(format_metric, name="auc"),
               "probability that a positive candidate scores above a negative one; 0.5 is random"),
        Column("ECE", partial(format_metric, name="ece"),
               "mean distance between predicted and observed share over 15 bins of equal size"),
        Column("predicted / observed", partial(format_metric, name="predicted_over_observed", digits=3)),
        Column("log loss", partial(format_metric, name="log_loss"), "mean negative log likelihood, in nats"),
    ]  # fmt: skip
    rows = aggregate_seeds(report["task_metrics"], ("system", "task"))
    if any("correlation" in row for row in rows):
        cell = partial(format_metric, name="correlation", digits=3)
        columns.append(Column("correlation", cell, "of predicted and observed amounts"))
    return Table(columns, rows)


def _positives(row: Row) -> str:
    return format_metric(row, "positives", 0) if row["positives"] else "none in this split"


def _measured_text(report: Row) -> str:
    conditional = [
        f"{task['name']} is measured where a {task['given']} happened"
        for task in report["tasks"]
        if figures.is_conditional(task)
    ]
    return "; ".join(["with an outcome", *conditional])


def _measured_label(task: Row) -> str:
    return f"{task['name']}, given {task['given']}" if figures.is_conditional(task) else str(task["name"])


def _calibration_finding(report: Row) -> str:
    task = report["purchase_task"]
    rows = [row for row in report["calibration"] if row["task"] == task and row["ratio"]]
    if not rows:
        return f"No candidate of this split has a {task}, so that p({task}) cannot be compared."
    worst = max(rows, key=lambda row: max(row["ratio"], 1 / row["ratio"]) * (row["pairs"] > MIN_PAIRS))
    overall = f"{rows[0]['predicted']:.2%} predicted, {rows[0]['observed']:.2%} observed over all candidates"
    return " ".join(
        [
            f"{task.capitalize()}: {overall}. Largest error: {worst['group']} "
            f"“{figures.slice_label(worst)}”, predicted / observed {worst['ratio']:.2f}.",
            *_tasks_without_positives(report),
        ]
    )


def _tasks_without_positives(report: Row) -> Iterator[str]:
    for row in aggregate_seeds(report["task_metrics"], ("system", "task")):
        if row["system"] == report["system"] and not row["positives"]:
            yield f"No candidate of this split has a {row['task']}."


def _slice_table(rows: list[Row]) -> Table:
    columns = [
        Column("task", itemgetter("task"), numeric=False),
        Column("group", itemgetter("group"), numeric=False),
        Column("slice", figures.slice_label, numeric=False),
        Column("candidates", lambda row: f"{row['pairs']:,}"),
        Column("predicted", lambda row: f"{row['predicted']:.4f}"),
        Column("observed", lambda row: f"{row['observed']:.4f}"),
        Column("ratio", partial(format_metric, name="ratio", digits=3)),
        Column("ECE", partial(format_metric, name="ece")),
    ]
    return Table(columns, sorted(rows, key=itemgetter("task")))
