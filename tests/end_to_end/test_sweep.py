"""A sweep by Optuna: the real command on a small shop, and what it leaves."""

import json
from pathlib import Path

import mlflow
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from tests.data.shop import write_shop
from tests.end_to_end.commands import command
from training.config import METRICS
from training.sweep import RunResult, job_title, sweep_rows

BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@pytest.mark.slow
def test_a_search_ends_with_the_best_run_and_a_second_one_reuses_all(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write_shop(shop)
    arguments = [
        "train.py", "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler.seed=1", "experiment=debug", "data=tables", f"data.root={shop}",
        f"paths.prepared={tmp_path / 'prepared'}", f"paths.runs={tmp_path / 'runs'}",
        f"mlflow.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}",
        "ranker.train.learning_rate=tag(log,interval(1e-4,1e-2))",
    ]  # fmt: skip
    trained = command(*arguments)
    assert trained.returncode == 0, trained.stderr[-3000:]
    rows = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    assert len(rows) == 2
    assert rows[0]["objective"] >= rows[1]["objective"], "the best first"
    assert rows[0]["objective"] == rows[0]["validation/revenue6"]
    assert {f"validation/{name}" for name in METRICS} < set(rows[0])
    assert {"test/ndcg6", "test/revenue6"} < set(rows[0])
    best = (tmp_path / "runs" / "best").resolve()
    assert best == Path(rows[0]["run"]).resolve()
    assert f"best: {tmp_path / 'runs' / 'best'} -> {best.name}" in trained.stdout
    assert "\njob 2: ranker.train.learning_rate=" in trained.stdout
    assert "Recall by source" not in trained.stdout, "the pages have the tables of the jobs"
    folders = sorted(folder.name for folder in (tmp_path / "runs").iterdir() if folder.is_dir())
    assert sum(name.startswith("retrieval-") for name in folders) == 1, "the jobs share retrieval"

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs(["1"])
    names = [run.info.run_name for run in runs if " · ranker " in run.info.run_name]
    assert len(names) == 2
    assert all(name.startswith("learning_rate=0.00") for name in names), "what differs comes first"
    assert all("experiment=debug" in name and str(tmp_path) not in name for name in names)
    assert all(run.info.status == "FINISHED" for run in runs)
    assert all("validation/revenue6" in run.data.metrics for run in runs if " · ranker " in run.info.run_name)

    (sweep,) = {run.data.tags["sweep"] for run in runs}
    assert f"/#/experiments/1/runs?viewStateShareKey={sweep}" in trained.stdout
    view = json.loads(client.get_experiment("1").tags[f"mlflow.sharedViewState.{sweep}"])
    assert {"metrics.`validation/revenue6`", "params.`ranker.train.learning_rate`"} < set(
        view["selectedColumns"]
    )
    assert len(client.search_runs(["1"], view["searchFilter"])) == 2, "the rankers alone"

    again = command(*arguments)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads((tmp_path / "runs" / "sweep.json").read_text()) == rows
    assert sorted(f.name for f in (tmp_path / "runs").iterdir() if f.is_dir()) == folders


def test_a_job_is_titled_by_what_it_varies() -> None:
    given = ["experiment=debug", "++tasks.fast.loss=focal,bce", "seed=0,1", "ranker=mmoe"]
    job = {"num": 1}
    overrides = {"task": ["experiment=debug", "++tasks.fast.loss=bce", "seed=0", "ranker=mmoe"]}
    hydra = {"job": job, "overrides": overrides, "sweeper": {"_target_": BASIC}}
    title = job_title(OmegaConf.create({"hydra": hydra}), given)
    assert title == "job 2 of 4: tasks.fast.loss=bce seed=0"
    search = hydra | {
        "sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
    }
    assert job_title(OmegaConf.create({"hydra": search}), given).startswith("job 2: ")


def test_failed_jobs_stand_last_and_common_overrides_are_not_repeated(tmp_path: Path) -> None:
    def job(value: float | None, *overrides: str) -> tuple[list[str], JobReturn]:
        result = (
            None
            if value is None
            else RunResult(value, tmp_path / f"run-{value}", {"validation/ndcg6": value})
        )
        status = JobStatus.FAILED if value is None else JobStatus.COMPLETED
        given = JobReturn(overrides=list(overrides), status=status)
        if value is None:
            given.return_value = ValueError("stopped")
        else:
            given.return_value = result
        return list(overrides), given

    rows = sweep_rows([job(0.1, "a=1", "seed=0"), job(None, "a=1", "seed=1"), job(0.3, "a=1", "seed=2")])
    assert [row["overrides"] for row in rows] == ["seed=2", "seed=0", "seed=1"]
    assert [row["objective"] for row in rows] == [0.3, 0.1, None]
    (only,) = sweep_rows([job(0.1, "++a=1")])
    assert only["overrides"] == "a=1"


def test_another_metric_is_refused_before_anything_is_read() -> None:
    wrong = command("train.py", "objective_metric=validation/revenue")
    assert wrong.returncode == 1
    assert "Did you mean validation/revenue6" in wrong.stderr


@pytest.mark.parametrize("key", ["paths.runs", "paths.prepared"])
def test_a_scheme_that_is_not_supported_is_refused(key: str) -> None:
    wrong = command("train.py", f"{key}=ftp://server/{key}")
    assert wrong.returncode == 1
    assert f"{key}=ftp://server/{key}: ftp:// is not supported; use s3://" in wrong.stderr
