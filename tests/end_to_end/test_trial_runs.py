"""Trial runs: one batch of everything, and one batch until it is learned."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.data.shop import make_shop, write_csv
from tests.end_to_end.commands import command, finished


def train(folder: Path, *overrides: str) -> None:
    """Train on a small shop; everything is written below `folder`."""
    for name, rows in make_shop(users=30).items():
        write_csv(folder / "shop" / f"{name}.csv", rows)
    done = command(
        "train.py", "data=tables", f"data.root={folder}/shop", f"paths.prepared={folder}/prepared",
        f"paths.runs={folder}/runs", f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db", *overrides,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def logged_rows(folder: Path, stage: str) -> Iterator[dict[str, str]]:
    """The rows that `logger=csv` wrote for a stage."""
    for file in sorted((folder / "runs").glob(f"{stage}-*/csv/version_*/metrics.csv")):
        yield from csv.DictReader(file.open())


def test_one_batch_of_each_stage_with_loggers_and_a_callback(tmp_path: Path) -> None:
    train(
        tmp_path,
        "experiment=[debug,fast_dev_run]",
        "logger=[csv,tensorboard]",
        "callbacks.lr={_target_: pytorch_lightning.callbacks.LearningRateMonitor}",
        "trainer.profiler=simple",
        "ranker.train.monitor=val_ndcg6",
    )
    assert not (tmp_path / "mlflow.db").exists()
    for stage in ("retrieval", "ranker"):
        manifest = finished(tmp_path, stage)
        assert manifest["metrics"]["steps"] == 1
        assert manifest["mlflow_run_id"] == ""
        assert any(row.get("lr-AdamW") for row in logged_rows(tmp_path, stage))
        assert list((tmp_path / "runs").glob(f"{stage}-*/fit-profile*"))
    assert 0 < finished(tmp_path, "ranker")["metrics"]["best_val_ndcg6"] <= 1
    assert any(row.get("validation/ndcg6") for row in logged_rows(tmp_path, "ranker"))
    (folder,) = (tmp_path / "runs").glob("ranker-*/tensorboard")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"val_loss", "validation/ndcg6", "test/all/purchase/ndcg6"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_one_batch_is_learned(tmp_path: Path) -> None:
    train(tmp_path, "experiment=[debug,overfit]", "logger=csv")
    for stage, column in (("retrieval", "loss_epoch"), ("ranker", "loss")):
        losses = [float(row[column]) for row in logged_rows(tmp_path, stage) if row.get(column)]
        assert losses[-1] < losses[0] / 2
