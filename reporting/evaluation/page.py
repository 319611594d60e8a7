"""The evaluation report as one HTML page: sections, each under the question that it answers."""

from collections.abc import Sequence
from typing import Any

from reporting.elements import Figure
from reporting.evaluation import figures
from reporting.evaluation.slates import diversity_section, examples_section
from reporting.evaluation.systems import (
    column_section,
    differences_section,
    frontier_section,
    leaderboard_section,
    recall_section,
)
from reporting.evaluation.task_quality import calibration_section
from reporting.render import render
from reporting.tables import Row, aggregate_seeds, format_metric, summarize_leaderboard


def report_page(report: Row) -> str:
    """Return the page of `report.json` (evaluation/leaderboard.py); a part that is missing has no section."""
    days = report["horizon"].removesuffix("d")
    alarms = [alarm["text"] for alarm in report.get("alarms", [])]
    return render(
        "evaluation.html",
        title=f"{report['system'].capitalize()} on the {report['split']} checkouts",
        report=report,
        horizon="in the user's next order" if days == "next_order" else f"within {days} days",
        slate_order=figures.order_name(report, report["objective"]["order"]),
        cards=_metric_cards(report),
        leaderboard=leaderboard_section(report),
        differences=differences_section(report),
        by_column=column_section(report) if report.get("by_column") else None,
        frontier=frontier_section(report),
        diversity=diversity_section(report),
        calibration=calibration_section(report),
        recall=recall_section(report),
        training=training_section(report["health"], alarms) if report["health"] or alarms else None,
        slates=examples_section(report) if report["examples"] else None,
        runs=", ".join(f"{run['run']} (seed {run['seed']})" for run in report["runs"]),
    )


def _metric_cards(report: Row) -> list[tuple[str, str]]:
    """The values and names of the headline metrics."""
    system = report["system"]
    rows = {
        (row["order"], row["slice"]): row
        for row in summarize_leaderboard(report["leaderboard"])
        if row["system"] == system
    }
    quality = {
        row["task"]: row
        for row in aggregate_seeds(report["task_metrics"], ("system", "task"))
        if row["system"] == system
    }
    union = next(row for row in aggregate_seeds(report["recalls"], ("source",)) if row["source"] == "union")
    slate_order = report["objective"]["order"]
    sorted_by = f"sorted by {figures.order_name(report, slate_order)}"
    revenue = [
        (format_metric(rows[order, "all"], "revenue6", 2), f"revenue@6, sorted by {name}")
        for order in ("value", "objective")
        if (order, "all") in rows and (name := figures.order_name(report, order))
    ]
    errors = [
        (format_metric(quality[task["name"]], "ece"), f"calibration error (ECE) of {label}")
        for task in report["tasks"]
        if task["kind"] == "binary" and (label := figures.probability_label(task))
    ]
    return [
        (format_metric(rows[slate_order, "all"], "ndcg6"), f"NDCG@6, {sorted_by}"),
        *revenue,
        (
            format_metric(rows[slate_order, "discovery"], "ndcg6"),
            f"NDCG@6 of discovery (never bought before), {sorted_by}",
        ),
        (format_metric(union, "recall300"), "recall@300 of all candidates, in the ranker's order"),
        *errors,
    ]


def training_section(health: Row | None, slate_alarms: Sequence[str] = ()) -> dict[str, Any]:
    """Alarms, also those of the slates, expert weights and gradient cosines of training."""
    health = health or {}
    alarms = [*slate_alarms, *(health.get("alarms") or [])]
    charts = []
    if health.get("gates"):
        caption = "Mean weight over the validation candidates. Bars of one shade are one expert."
        charts.append(Figure(figures.gate_weights_chart(health), caption, heading="Expert weights by task"))
    if health.get("gradient_cosine"):
        caption = "Above 0 the gradients of two tasks agree, below 0 they conflict."
        chart = figures.gradient_cosine_chart(health["gradient_cosine"])
        charts.append(Figure(chart, caption, heading="Agreement of the tasks' gradients"))
    finding = f"{len(alarms)} alarm{'s' * (len(alarms) > 1)}." if alarms else "No alarm."
    return {"finding": finding, "alarms": alarms, "figures": charts}
