"""Training in several processes: the same model as in one, killed on two and resumed on one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from data.io.batches import read_batches
from models.ranking.calibration import TaskCalibration
from tests.data.shop import write_shop
from tests.end_to_end.commands import HANG_SECONDS, ROOT, command, environment, finished, train_arguments
from tests.end_to_end.test_resume import step_of
from training.labels import label_policy_from_meta, task_labels
from training.ranker import predict
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder)
    return folder


@pytest.mark.slow  # tests/training/distributed/ has its parts
def test_two_processes_learn_what_one_does(tmp_path: Path, shop: Path) -> None:
    one = command(*train_arguments(tmp_path / "one", shop))
    assert one.returncode == 0, one.stderr[-3000:]
    overrides = [
        "trainer=distributed",
        "trainer.sharding=row_wise",
        f"paths.prepared={tmp_path}/one/prepared",
    ]
    two = command(*TORCHRUN, *train_arguments(tmp_path / "two", shop, *overrides))
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("run: ") == 1, "one process prints"
    for stage, metric, tolerance in (
        ("retrieval", "recall_100", 0.01),
        ("retrieval", "loss_epoch", 0.2),
        ("ranker", "val_purchase_auc", 0.01),
        ("ranker", "val_loss", 0.2),  # 24 steps, with other draws
    ):
        values = [finished(tmp_path / run, stage)["metrics"][metric] for run in ("one", "two")]
        assert values[0] == pytest.approx(values[1], abs=tolerance), (stage, metric)
    for run in ("one", "two"):
        calibration_fits_the_weights_that_are_kept(tmp_path / run / "runs" / "latest")


def calibration_fits_the_weights_that_are_kept(folder: Path) -> None:
    """Wherever its predictions came from: those of the last validation, or made anew."""
    run = open_run(folder)
    batches = read_batches(run.candidates_folder / "validation.parquet", 256)
    policy = label_policy_from_meta(run.prepared.meta)
    logits, labels = predict(run.ranker, *run.towers_of("validation"), batches, policy)
    refitted = TaskCalibration(len(run.tasks))
    refitted.fit(run.tasks, logits, task_labels(labels, run.tasks, policy))
    levels = read_stage_manifest(folder)["recalibration"]["levels"]
    with torch.no_grad():
        for i, task in enumerate(run.tasks):  # the newest outcomes shifted it afterwards
            run.ranker.calibration.shift[i] -= levels.get(task.name, {"shift": 0.0})["shift"]
        saved_probabilities, probabilities = (
            calibration(logits)[:, :2].sigmoid() for calibration in (run.ranker.calibration, refitted)
        )
    torch.testing.assert_close(saved_probabilities, probabilities, atol=0.01, rtol=0)


@pytest.mark.slow  # a minute; tests/end_to_end/test_resume.py resumes one process
def test_killed_on_two_resumed_on_one(tmp_path: Path, shop: Path) -> None:
    """One of two processes is killed: the command ends at once, and one process finishes the run."""
    overrides = ["trainer.checkpoint_every=1", "ranker.train.epochs=4", "trainer.sharding=column_wise"]
    arguments = train_arguments(tmp_path, shop, *overrides)
    launcher = subprocess.Popen(
        [sys.executable, *TORCHRUN, *arguments, "trainer=distributed"],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    deadline = time.monotonic() + HANG_SECONDS
    while step_of(tmp_path, "ranker") < 14:
        assert launcher.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)  # leaves the processors to the training
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, stderr = launcher.communicate(timeout=HANG_SECONDS)
    assert launcher.returncode != 0
    assert "SIGKILL" in stderr
    resumed = command(*arguments)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    (step,) = re.findall(r"resuming ranker-\w+ at step (\d+)", resumed.stdout)
    assert int(step) >= 14
    assert finished(tmp_path, "ranker")["metrics"]["val_purchase_auc"] > 0.9


@pytest.mark.slow
def test_processes_need_a_trainer_for_them(tmp_path: Path, shop: Path) -> None:
    refused = command(*TORCHRUN, *train_arguments(tmp_path, shop))
    assert refused.returncode != 0
    assert "error: torchrun started 2 processes: add trainer=distributed or trainer=gpu" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("query", ["ligr", "mean", "sasrec"])
def test_bfloat16_learns_what_float32_does(tmp_path: Path, shop: Path, query: str) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        overrides = [f"trainer.precision={precision}", f"query={query}", "stage=retrieval"]
        run = command(*train_arguments(tmp_path / precision, shop, *overrides))
        assert run.returncode == 0, run.stderr[-3000:]
        losses.append(finished(tmp_path / precision, "retrieval")["metrics"]["loss_epoch"])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
