"""The evaluation report as one HTML page; the heading of each section is the question that it answers."""

from functools import partial
from typing import Any

from reporting.elements import Figure
from reporting.evaluation import figures
from reporting.evaluation.headline import page_alarms, page_head
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
from reporting.tables import Row


def report_page(report: Row) -> str:
    """Return the page of `report.json` (evaluation/leaderboard.py); sections without data are left out."""
    days = report["horizon"].removesuffix("d")
    return render(
        "evaluation.html",
        page_head(report),
        report=report,
        horizon="in the user's next order" if days == "next_order" else f"within {days} days",
        slate_order=figures.order_name(report, report["objective"]["order"]),
        leaderboard=leaderboard_section(report),
        differences=differences_section(report),
        by_column=column_section(report) if report.get("by_column") else None,
        frontier=frontier_section(report),
        diversity=diversity_section(report),
        calibration=calibration_section(report),
        recall=recall_section(report),
        training=training_section(report) if report["health"] or page_alarms(report) else None,
        slates=examples_section(report) if report["examples"] else None,
    )


def training_section(report: Row) -> dict[str, Any]:
    """The section about training: all alarms, expert weights, gradient cosines.

    The alarms of the slates are among them.
    """
    health, alarms = report["health"] or {}, page_alarms(report)
    charts = []
    if health.get("gates"):
        caption = "Mean weight over the validation candidates. Bars of one shade are one expert."
        charts.append(
            Figure(partial(figures.gate_weights_chart, health), caption, heading="Expert weights by task")
        )
    if health.get("gradient_cosine"):
        caption = "Above 0 the gradients of two tasks agree, below 0 they conflict."
        chart = partial(figures.gradient_cosine_chart, health["gradient_cosine"])
        charts.append(Figure(chart, caption, heading="Agreement of the tasks' gradients"))
    finding = (
        f"{len(alarms)} alarm{'s' * (len(alarms) > 1)}. See the top of the page." if alarms else "No alarm."
    )
    return {"finding": finding, "figures": charts}
