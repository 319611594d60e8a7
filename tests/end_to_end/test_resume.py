"""A training run killed in mid-epoch goes on where its last checkpoint was, and ends the same."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.data.shop import write_shop
from tests.end_to_end.commands import command, finished, start, train_arguments


@pytest.mark.parametrize("stage", ["retrieval", "ranker"])
def test_killed_run_resumes_and_ends_with_the_metrics_of_an_unbroken_one(tmp_path: Path, stage: str) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write_shop(shop)
    more = ["trainer.checkpoint_every=2", "retrieval.train.epochs=4", "ranker.train.epochs=4"]
    more += [f"stage={stage}", "retrieval.train.patience=9", "ranker.train.patience=9"]
    whole = command(*train_arguments(tmp_path / "whole", shop, *more))
    assert whole.returncode == 0, whole.stderr[-3000:]

    broken = tmp_path / "broken"
    process = start(*train_arguments(broken, shop, *more))
    deadline = time.monotonic() + 120
    while not list(broken.glob(f"runs/{stage}-*/last.ckpt/.metadata")):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(broken.glob(f"runs/{stage}-*/done.json"))

    resumed = command(*train_arguments(broken, shop, *more))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming" in resumed.stdout
    before, after = finished(tmp_path / "whole", stage)["metrics"], finished(broken, stage)["metrics"]
    assert set(before) == set(after)
    for name in set(before) - {"loss_step", "loss_epoch", "loss"}:  # means over the epoch so far
        if not name.endswith(("_epoch", "_step")):
            assert after[name] == pytest.approx(before[name], rel=0.02, abs=0.01), name
