"""The report of an evaluation as files and as text."""

import json
from pathlib import Path
from typing import Any

from reporting.evaluation.page import report_page
from reporting.tables import (
    SLATE_KEYS,
    aggregate_seeds,
    by_column,
    format_rows,
    leaderboard_table,
    text_table,
)
from serving.files import write_json, write_text


def write_report(out: Path, report: dict[str, Any], prints_tables: bool = True) -> None:
    """Write the report's three files to `out`; if `prints_tables`, also print its tables."""
    write_json(out / "leaderboard.json", report["leaderboard"])
    write_json(out / "report.json", report)
    # From the file, so that the page has nothing that the JSON lacks.
    write_text(out / "index.html", report_page(json.loads((out / "report.json").read_text())))
    if prints_tables:
        print(report_text(report))
    print(f"\nclick label: {report['click']}; written: {out / 'index.html'}, report.json, leaderboard.json")


def report_text(report: dict[str, Any]) -> str:
    """Return the tables of a report as text. A table without rows is left out."""
    tables = {
        "Differences, this system minus the other": report["differences"],
        "Tasks": aggregate_seeds(report["task_metrics"], ("system", "task")),
        "Recall by source, in the ranker's order; two towers alone in their own": aggregate_seeds(
            report["recalls"], ("source",)
        ),
        "Purchases against revenue": aggregate_seeds(report["frontier"], ("system", "revenue_weight")),
        "Slates": aggregate_seeds(report["slates"], SLATE_KEYS),
    }
    for column, rows in by_column(report["by_column"]).items():
        tables[f"By {column}, slates by {report['objective']['expression']}"] = rows
    texts = [f"{heading}\n{text_table(format_rows(rows))}" for heading, rows in tables.items() if rows]
    return "\n\n".join([leaderboard_table(report["leaderboard"]), *texts])
