"""Comparison of this system with every baseline, including LightGBM on the same candidates and features.

    python -m evaluation.leaderboard                       the latest run
    python -m evaluation.leaderboard RUN RUN RUN           several seeds of one config: mean ± sd

Prints the tables and writes three files: `reports/report.json` with all results,
`reports/leaderboard.json` with the rows of the leaderboard, and `reports/index.html`, the report's page.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.errors import DataError
from evaluation import (
    baselines,
    calibration_slices,
    example_slates,
    lightgbm_evaluation,
    protocol,
    scoring,
    slates,
    task_quality,
)
from evaluation.alarms import POPULARITY, slate_alarms
from evaluation.column_slices import ColumnMetrics
from evaluation.jagged import Array, RankedLists
from evaluation.metrics import paired_bootstrap
from evaluation.objective import (
    Objective,
    objective_order,
    objective_ranking,
    open_objective,
)
from evaluation.report_files import write_report
from evaluation.task_alarms import task_alarms
from evaluation.task_outputs import purchase_task
from serving import command_line
from serving.command_line import argument, option
from training.config import flatten_config
from training.errors import ConfigError
from training.objective import run_objective
from training.report_columns import check_report_columns
from training.source_settings import source_names
from training.trained_run import Run, open_run

Rows = list[dict[str, Any]]
System = tuple[str, str]  # (system, order)
SliceMetrics = dict[str, dict[str, Array]]  # slice → metric → one value per checkout of the slice
METRIC_BY_ORDER = {"purchase": "ndcg6", "value": "revenue6"}  # the metric that an order maximizes
GBDT_BASELINE = "LightGBM"
IDEAL_RANKING = "perfect order of these candidates"
HEALTH_FILE = "health.json"  # in a run folder: training's own checks
# Settings in which the seeds of one system may differ.
SEED_INDEPENDENT_SETTINGS = (
    "seed", "stage", "paths.", "mlflow.", "logger", "trainer.", "data.root", "prepare.",
    "evaluation.",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions:
    """Compare this system with every baseline, including LightGBM on the same candidates and features."""

    runs: tuple[str, ...] = argument("run folders", default=("artifacts/runs/latest",))
    split: Literal["validation", "test"] = option("test", "split of the runs' data to read")
    without_gbdt: bool = option(False, "leave LightGBM out (it takes minutes)")
    out: Path = option(Path("reports"), "folder of the report")
    by: tuple[str, ...] = option(
        (), "columns whose values get metrics, such as users.city orders.device items.brand"
    )


def compare_runs(options: LeaderboardOptions) -> int:
    """Evaluate the runs and write the report."""
    runs = [open_run(folder) for folder in options.runs]
    if reason := seed_mismatch(runs):
        sys.exit(f"error: {reason}")
    check_report_columns(options.by, runs[0].prepared.folder)
    build_leaderboard(runs, options.split, not options.without_gbdt, options.out, options.by)
    return 0


def seed_mismatch(runs: list[Run]) -> str | None:
    """Return why the runs are not seeds of one system, or None if they are.

    Means over runs need seeds of one system.
    """
    if len({run.prepared.folder for run in runs}) > 1:
        return "the runs were made from different data; compare them one by one"
    settings = [
        {
            key: value
            for key, value in flatten_config(run.cfg).items()
            if not key.startswith(SEED_INDEPENDENT_SETTINGS)
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for run_settings in settings for key in run_settings)
    if differing := [key for key in keys if len({str(each.get(key)) for each in settings}) > 1]:
        return f"the runs differ in {', '.join(differing)}: a mean is for seeds of one config"
    if len({run.cfg.seed for run in runs}) < len(runs):
        return "a seed occurs twice: give each run once"
    return None


class Leaderboard:
    """Collects the metrics of every system on one split."""

    def __init__(self, data: protocol.Split, by_column: ColumnMetrics) -> None:
        self.data, self.slices, self.by_column = data, protocol.slices(data), by_column
        self.rows: Rows = []
        self.metrics_by_seed: dict[System, list[SliceMetrics]] = {}

    def add(self, ranked: RankedLists, system: str, order: str, seed: int) -> None:
        """Measure the lists of a system."""
        metrics = protocol.metrics_per_checkout(ranked, self.data, self.slices)
        self.metrics_by_seed.setdefault((system, order), []).append(metrics)
        self.rows += protocol.mean_rows(metrics, system, order, seed)

    def best_baseline(self, systems: Iterable[System], order: str) -> System:
        """The system of `systems` with the highest value of the metric that `order` maximizes."""
        metric, candidates = METRIC_BY_ORDER[order], set(systems)
        rows = [
            row for row in self.rows if row["slice"] == "all" and (row["system"], row["order"]) in candidates
        ]
        best = max(rows, key=lambda row: row[metric])
        return best["system"], best["order"]

    def paired_differences(self, baseline: System, order: str) -> Rows:
        """Return this system's value minus the baseline's in the metric of `order`, for each slice.

        The value of a checkout is its mean over the seeds. The 95 % interval is from a bootstrap over users.
        """
        metric, rows = METRIC_BY_ORDER[order], []
        for part in self.slices:
            if not len(part.rows):
                continue
            ours, theirs = (
                np.mean([metrics[part.name][metric] for metrics in self.metrics_by_seed[system]], axis=0)
                for system in ((scoring.SYSTEM_NAME, order), baseline)
            )
            difference = paired_bootstrap(ours, theirs, self.data.user[part.rows])
            keys = {"to": baseline[0], "order": order, "metric": metric, "slice": part.name}
            rows.append(keys | difference._asdict())
        return rows


def build_leaderboard(
    runs: list[Run],
    split: str,
    with_gbdt: bool,
    out: Path,
    by: Sequence[str] = (),
    prints_tables: bool = True,
) -> Rows:
    """Evaluate all systems on `split` and write the report; returns the leaderboard's rows.

    Each run has different candidates. LightGBM takes minutes and is fitted once, on the candidates of the
    first run. The report also splits this system's metrics by the values of the columns `by`.
    """
    first = runs[0]
    data = protocol.load_split(first.prepared.folder, split)
    board = Leaderboard(data, ColumnMetrics(first.prepared.folder, split, data, by))
    for system, order, ranked in baselines.baseline_rankings(first.prepared.folder, split, data):
        board.add(ranked, system, order, first.cfg.seed)
    untrained = list(board.metrics_by_seed)
    report: dict[str, Any] = {
        name: [] for name in ("task_metrics", "recalls", "frontier", "slates", "alarms")
    }
    for run in runs:
        objective = open_objective(run)
        scored = scoring.score_split(run, split)
        _add_run(board, report, run, objective, scored)
        report["recalls"] += [{"seed": run.cfg.seed, **row} for row in two_tower_recall(run, split, data)]
        if run is first:
            known, proposed = scoring.known_candidates(scored), scoring.proposed_candidates(scored)
            report["calibration"] = calibration_slices.calibration_rows(
                known, run.tasks, data, run.catalog, source_names(run.cfg)
            )
            report["curves"] = calibration_slices.reliability_curves(known, run.tasks, data, run.catalog)
            report["examples"] = example_slates.select_examples(run, objective, proposed, data, split)
            if with_gbdt:
                _add_gbdt(board, report, run, lightgbm_evaluation.evaluate(run, split))
    report |= {"by_column": board.by_column.rows(), "differences": []}
    by_popularity = [system for system in untrained if system[0].startswith(POPULARITY)]
    further: Rows = []  # against popularity, where another baseline is better
    orders = {order for system, order in board.metrics_by_seed if system == scoring.SYSTEM_NAME}
    for order in (order for order in METRIC_BY_ORDER if order in orders):
        compared = [board.best_baseline(untrained, order)] + [(GBDT_BASELINE, order)] * with_gbdt
        for baseline in compared:
            report["differences"] += board.paired_differences(baseline, order)
        popularity = board.best_baseline(by_popularity, order)
        if popularity not in compared:
            further += board.paired_differences(popularity, order)
    report["alarms"] += slate_alarms([*further, *report["differences"]])
    report |= report_metadata(runs, split, board) | {"leaderboard": board.rows}
    write_report(out, report, prints_tables)
    return board.rows


def _add_run(
    board: Leaderboard,
    report: dict[str, Any],
    run: Run,
    objective: Objective,
    scored: scoring.ScoredCandidates,
) -> None:
    """Add the results of one run of this system."""
    seed, proposed = run.cfg.seed, scoring.proposed_candidates(scored)
    rankings = scoring.rankings_by_order(scored, run.tasks)
    if (order := objective_order(objective.expression, run.tasks)) not in rankings:
        rankings[order] = objective_ranking(scored, objective, board.data.snapshot)
    for each, ranked in rankings.items():
        board.add(ranked, scoring.SYSTEM_NAME, each, seed)
    board.by_column.add(rankings[order])
    board.add(baselines.ideal_ranking(rankings["purchase"], board.data), IDEAL_RANKING, "purchase", seed)
    quality = task_quality.task_metrics(scored, run.tasks)
    report["task_metrics"] += _tag_rows(scoring.SYSTEM_NAME, seed, quality)
    report["alarms"] += task_alarms(scored, run.tasks, board.data.user, objective.expression)
    recalls = protocol.recall_by_source(
        rankings["purchase"], proposed.source, source_names(run.cfg), board.data
    )
    report["recalls"] += [{"seed": seed, **row} for row in recalls]
    candidates = slates.slate_candidates(proposed, objective, board.data.snapshot)
    part, items = board.slices[0], slates.slate_items(run)
    frontier = slates.revenue_frontier(candidates, objective, part, items)
    report["frontier"] += _tag_rows(scoring.SYSTEM_NAME, seed, frontier)
    costs = slates.policy_costs(candidates, objective, part, items)
    report["slates"] += _tag_rows(scoring.SYSTEM_NAME, seed, costs)


def _add_gbdt(
    board: Leaderboard, report: dict[str, Any], run: Run, results: lightgbm_evaluation.Results
) -> None:
    """Add the results of LightGBM on the candidates of a run."""
    seed = run.cfg.seed
    for order, ranked in results.rankings.items():
        board.add(ranked, GBDT_BASELINE, order, seed)
    report["task_metrics"] += _tag_rows(GBDT_BASELINE, seed, results.task_metrics)
    frontier = slates.revenue_frontier(
        results.candidates, lightgbm_evaluation.OBJECTIVE, board.slices[0], slates.slate_items(run)
    )
    report["frontier"] += _tag_rows(GBDT_BASELINE, seed, frontier)


def _tag_rows(system: str, seed: int, rows: Iterable[dict[str, Any]]) -> Rows:
    return [{"system": system, "seed": seed, **row} for row in rows]


def two_tower_recall(run: Run, split: str, data: protocol.Split) -> Rows:
    """Measure recall of the two towers alone, by exact search over the catalog."""
    nearest = scoring.nearest_items(run, split)
    source = np.ones(len(nearest.item), np.int64)
    rows = protocol.recall_by_source(nearest, source, ("two towers alone",), data)
    return [row for row in rows if row["source"] != "union"]


def report_metadata(runs: list[Run], split: str, board: Leaderboard) -> dict[str, Any]:
    """The metadata of the report: data, split, runs, and the checks that training made."""
    meta, health, tasks = runs[0].prepared.meta, runs[0].folder / HEALTH_FILE, runs[0].tasks
    expression = run_objective(runs[0].cfg, tasks)
    return {
        "split": split,
        "data": meta["name"],
        "click": meta["click"],
        "horizon": meta["horizon"],
        "from": int(board.data.ts.min()),
        "to": int(board.data.ts.max()),
        "checkouts": len(board.data.ts),
        "judged": len(board.slices[0].rows),
        "items": meta["counts"]["items"],
        "system": scoring.SYSTEM_NAME,
        "tasks": [asdict(task) for task in tasks],
        "purchase_task": tasks[purchase_task(tasks)].name,
        "objective": {"expression": expression, "order": objective_order(expression, tasks)},
        "runs": [{"run": run.folder.name, "seed": run.cfg.seed} for run in runs],
        "health": json.loads(health.read_text()) if health.is_file() else None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(
        "python -m evaluation.leaderboard",
        compare_runs,
        arguments=arguments,
        errors=(FileNotFoundError, DataError, ConfigError),
    )


if __name__ == "__main__":
    sys.exit(main())
