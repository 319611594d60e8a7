"""The result of a training run for a sweep, and the summary of a sweep: its jobs, the best first.

python train.py -m seed=0,1,2
python train.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=20 'ranker=choice(mmoe, ple)'
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from data.io.remote_roots import local_root
from reporting.tables import text_table
from serving.files import write_json
from training.config_keys import parse_overrides
from training.config_overrides import override_values
from training.stage_folders import BEST_LINK, link_run

SWEEP_FILE = "sweep.json"  # in `paths.runs`: the results of the jobs
BASIC_SWEEPER = "basic_sweeper"  # Hydra's sweeper that runs every combination


class RunResult(float):
    """The objective metric of a run (higher is better), with the run's folder and all metrics."""

    folder: str
    metrics: dict[str, float]

    def __new__(cls, value: float, folder: Path, metrics: Mapping[str, float]) -> "RunResult":
        result = super().__new__(cls, value)
        result.folder, result.metrics = str(folder), dict(metrics)
        return result

    def __reduce__(self) -> tuple[Any, ...]:
        return RunResult, (float(self), Path(self.folder), self.metrics)


class SweepSummary(Callback):
    """Prints what each job of a sweep varies and a table of all jobs, and links `best` to the best run."""

    def __init__(self) -> None:
        self.jobs: list[tuple[list[str], JobReturn]] = []
        self.given: list[str] = []  # overrides of the command line

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self.given = list(config.hydra.overrides.task)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            print(f"\n{job_title(config, self.given)}", flush=True)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        self.jobs.append((list(job_return.overrides or []), job_return))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        rows = sweep_rows(self.jobs)
        if not rows:
            return
        runs = local_root(config.paths.runs)
        write_json(runs / SWEEP_FILE, rows)
        best = next((row for row in rows if row["run"]), None)
        names = [name for name in rows[0] if name != "objective"]
        print(f"\nThe sweep, the best by {config.objective_metric} first:")
        print(text_table([_shown(row, names) for row in rows]))
        if best is not None:
            link_run(runs, Path(best["run"]), BEST_LINK)
            print(f"best: {runs / BEST_LINK} -> {Path(best['run']).name}")
            _print_view(config, [Path(row["run"]) for row in rows if row["run"]], varied_keys(self.jobs))


def job_title(config: DictConfig, given: Sequence[str]) -> str:
    """A title with the overrides in which the job differs from other jobs: `job 2 of 4: seed=1`."""
    own = [each.lstrip("+") for each in config.hydra.overrides.task if each not in given]
    of_all = f" of {n_jobs(given)}" if BASIC_SWEEPER in config.hydra.sweeper._target_ else ""
    return f"job {config.hydra.job.num + 1}{of_all}: {' '.join(own) or 'defaults'}"


def n_jobs(overrides: Sequence[str]) -> int:
    """The number of combinations of the values that overrides give to their keys."""
    return math.prod(len(override_values(each)) for each in parse_overrides(overrides))


def varied_keys(jobs: Sequence[tuple[list[str], JobReturn]]) -> list[str]:
    """The keys whose values differ between the jobs."""
    common = set.intersection(*(set(overrides) for overrides, _ in jobs))
    varied = [
        each.partition("=")[0].lstrip("+")
        for overrides, _ in jobs
        for each in overrides
        if each not in common
    ]
    return list(dict.fromkeys(varied))


def _print_view(config: DictConfig, folders: Sequence[Path], keys: Sequence[str]) -> None:
    """Print the address of the sweep's page in MLflow."""
    from training.mlflow_views import sweep_view  # late: MLflow takes seconds to import

    page = sweep_view(config, Path(config.hydra.sweep.dir).name, folders, keys)
    if page is None:
        return
    uri = str(config.mlflow.tracking_uri)
    server = "" if uri.startswith("http") else f"  (once `mlflow ui --backend-store-uri {uri}` runs)"
    print(f"compare: {page}{server}")


def sweep_rows(jobs: Sequence[tuple[list[str], JobReturn]]) -> list[dict[str, Any]]:
    """Returns a row per job, the best first: the overrides that differ, the run's name and its metrics."""
    common = set.intersection(*(set(overrides) for overrides, _ in jobs)) if len(jobs) > 1 else set()
    rows = []
    for overrides, job in jobs:
        own = " ".join(each.lstrip("+") for each in overrides if each not in common) or "defaults"
        result = job.return_value if job.status == JobStatus.COMPLETED else None
        row: dict[str, Any] = {"overrides": own, "run": "", "objective": None}
        if isinstance(result, RunResult):
            row |= {"run": result.folder, "objective": float(result)} | dict(sorted(result.metrics.items()))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["objective"] is None, -(row["objective"] or 0.0)))


def _shown(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values of these columns of a row, formatted for display."""
    told = row | {"run": Path(row["run"]).name}
    cells = {name: told.get(name, "") for name in names}
    return {name: f"{cell:.4f}" if isinstance(cell, float) else cell for name, cell in cells.items()}
