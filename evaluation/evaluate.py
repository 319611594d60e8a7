"""The report of one run: this system compared with baselines that need no training.

`train.py` writes the report after training; `python -m evaluation.evaluate [run folder]` writes it again.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import DataError
from evaluation import scoring
from evaluation.alarms import REPORT_FILE
from evaluation.leaderboard import build_leaderboard
from evaluation.objective import objective_order
from reporting.evaluation.figures import order_name
from serving import command_line
from serving.command_line import argument, option
from training import tracking
from training.build_ranker import read_tasks
from training.config_versions import load_run_config
from training.errors import ConfigError
from training.objective import run_objective
from training.report_columns import check_report_columns
from training.stage_folders import is_done, read_stage_manifest, write_stage_manifest
from training.trained_run import open_run


def evaluate(
    folder: str | Path, split: str = "test", by: Sequence[str] = (), prints_tables: bool = True
) -> list[dict[str, Any]]:
    """Evaluate a run on `split`; return the leaderboard rows, and print the report's tables.

    The report is written to the run's folder and attached to the run in MLflow. The report also splits the
    metrics by the values of the columns `by`, such as users.city. Raises ConfigError for an unknown column.
    """
    run = open_run(folder)
    check_report_columns(by, run.prepared.folder)
    target = run.folder / f"evaluation-{split}"
    rows = build_leaderboard([run], split, with_gbdt=False, out=target, by=by, prints_tables=prints_tables)
    metrics: dict[str, float] = {}
    for row in rows:
        if row["system"] == scoring.SYSTEM_NAME:
            metrics |= tracking.prefix_metrics(row, f"{split}/{row['slice']}/{row['order']}")
    artifacts = [target / name for name in ("index.html", "report.json", "leaderboard.json")]
    tracking.finish_run(run.cfg, run.folder, metrics, artifacts)
    objective = run_objective(run.cfg, run.tasks)
    order = objective_order(objective, run.tasks)
    manifest = {"metrics": metrics, "objective": objective, "order": order, "by": list(by)}
    write_stage_manifest(target, manifest)
    return rows


def read_metrics(folder: Path, split: str = "test") -> dict[str, float]:
    """Return the slate metrics from the report of `evaluate`, as name → mean over all checkouts.

    A name is, for example, `test/ndcg6`. The slates are in the order of the run's objective.
    """
    manifest = read_stage_manifest(folder / f"evaluation-{split}")
    prefix = f"{split}/all/{manifest.get('order', 'purchase')}/"
    found = {name: value for name, value in manifest["metrics"].items() if name.startswith(prefix)}
    names = ("ndcg6", "hit6", "revenue6")
    return {f"{split}/{name}": found[f"{prefix}{name}"] for name in names if f"{prefix}{name}" in found}


def slate_order(folder: Path, split: str = "test") -> str:
    """Return the name that pages give to the order of the run's slates, such as `expected value`."""
    report = json.loads((folder / f"evaluation-{split}" / REPORT_FILE).read_text())
    return order_name(report, report["objective"]["order"])


def report_page_path(folder: Path, split: str = "test") -> Path:
    """The path of the page of a run's report."""
    return folder / f"evaluation-{split}" / "index.html"


def is_evaluated(folder: Path, split: str = "test", by: Sequence[str] = ()) -> bool:
    """Whether the run has a report on `split` for its current objective, with the columns `by`."""
    target = folder / f"evaluation-{split}"
    if not is_done(target):
        return False
    cfg = load_run_config(folder)
    manifest = read_stage_manifest(target)
    is_same = manifest.get("objective") == run_objective(cfg, read_tasks(cfg))
    return is_same and set(by) <= set(manifest.get("by", []))


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Evaluate one run on the test split and write the report to the run's folder."""

    run: str = argument("run folder, or latest or best of artifacts/runs", default="artifacts/runs/latest")
    by: tuple[str, ...] = option(
        (), "columns whose values get metrics, such as users.city orders.device items.brand"
    )


def evaluate_folder(options: EvaluateOptions) -> int:
    evaluate(options.run, by=options.by)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.evaluate",
        evaluate_folder,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
