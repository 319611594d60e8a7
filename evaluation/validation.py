"""Metrics of a run's slates on its validation split; runs and sweeps are compared by these metrics."""

from pathlib import Path

from evaluation import protocol, scoring
from evaluation.objective import objective_order, objective_ranking, open_objective
from training import tracking
from training.objective import run_objective
from training.source_settings import source_names
from training.stage_folders import is_done, read_stage_manifest, write_stage_manifest
from training.trained_run import Run, open_run

FOLDER = "validation-slates"  # of a run
SLATE_METRICS = ("ndcg6", "hit6", "precision6", "revenue6")
CUTOFF = 300  # candidates whose recall is a metric


def validate(folder: str | Path) -> dict[str, float]:
    """Return the metrics of a run's slates on validation, by name.

    They are measured once and logged to MLflow.

    `validation/ndcg6`, `hit6`, `precision6` and `revenue6` are means over the checkouts with an outcome, in
    the order of the run's objective; `validation/discovery_ndcg6` counts only items that are new to the user.
    `validation/recall300` is the recall of the 300 best candidates in the ranker's order.
    """
    run = open_run(folder)
    target, objective = run.folder / FOLDER, run_objective(run.cfg, run.tasks)
    if is_done(target):
        manifest = read_stage_manifest(target)
        if manifest["objective"] == objective:
            return dict(manifest["metrics"])
    metrics = measure_slates(run, "validation")
    tracking.finish_run(run.cfg, run.folder, metrics, [])
    target.mkdir(exist_ok=True)
    write_stage_manifest(target, {"metrics": metrics, "objective": objective})
    return metrics


def measure_slates(run: Run, split: str) -> dict[str, float]:
    """Return the metrics of `validate` on any split. The split's name is the prefix of each metric."""
    data = protocol.load_split(run.prepared.folder, split)
    scored, objective = scoring.score_split(run, split), open_objective(run)
    rankings = scoring.rankings_by_order(scored, run.tasks)
    order = objective_order(objective.expression, run.tasks)
    ranked = rankings.get(order) or objective_ranking(scored, objective, data.snapshot)
    slices = {part.name: part for part in protocol.slices(data)}
    parts = [slices["all"], slices["discovery"]]
    all_checkouts, discovery = protocol.metrics_per_checkout(ranked, data, parts).values()
    means = protocol.mean_metrics({name: all_checkouts[name] for name in SLATE_METRICS})
    means["discovery_ndcg6"] = protocol.mean_metrics(discovery)["ndcg6"]
    source = scoring.proposed_candidates(scored).source
    recalls = protocol.recall_by_source(
        rankings["purchase"], source, source_names(run.cfg), data, ks=(CUTOFF,)
    )
    union = next(row for row in recalls if row["source"] == "union")
    means[f"recall{CUTOFF}"] = float(union[f"recall{CUTOFF}"])
    return {f"{split}/{name}": value for name, value in means.items()}
