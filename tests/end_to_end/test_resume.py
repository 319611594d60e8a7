"""A training run killed in mid-epoch goes on where its last checkpoint was, and ends the same."""

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.data.shop import write_shop
from tests.end_to_end.commands import HANG_SECONDS, command, finished, start, train_arguments


@pytest.mark.slow  # two minutes
@pytest.mark.parametrize(("stage", "kill_at"), [("retrieval", 5), ("ranker", 3)])
def test_killed_run_resumes_and_ends_like_an_unbroken_one(tmp_path: Path, stage: str, kill_at: int) -> None:
    """Killed in a later epoch, the resumed run must not start anew, and must end with the same weights."""
    shop = tmp_path / "shop"
    shop.mkdir()
    write_shop(shop)
    overrides = ["trainer.checkpoint_every=1", "retrieval.train.epochs=4", "ranker.train.epochs=4"]
    overrides += [f"stage={stage}", "retrieval.train.patience=9", "ranker.train.patience=9"]
    # Validations amid epochs: no checkpoint lies between a step and its validation.
    overrides += ["retrieval.train.validate_every=7", "ranker.train.validate_every=7"]
    overrides += [
        "ranker.train.negative_sampling_rate=0.5",
        "ranker.train.loss_balancing=gradnorm",
    ]  # draws, and weights that learn
    whole = command(*train_arguments(tmp_path / "whole", shop, *overrides))
    assert whole.returncode == 0, whole.stderr[-3000:]

    broken = tmp_path / "broken"
    overrides.append(f"paths.prepared={tmp_path}/whole/prepared")
    process = start(*train_arguments(broken, shop, *overrides))
    deadline = time.monotonic() + HANG_SECONDS
    while step_of(broken, stage) < kill_at:
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)  # leaves the processor to the training
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(broken.glob(f"runs/{stage}-*/done.json"))

    resumed = command(*train_arguments(broken, shop, *overrides))
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    (step,) = re.findall(rf"resuming {stage}-\w+ at step (\d+)", resumed.stdout)
    assert int(step) >= kill_at
    expected, resumed_weights = (weights(folder, stage) for folder in (tmp_path / "whole", broken))
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed_weights[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert finished(tmp_path / "whole", stage)["metrics"].keys() == finished(broken, stage)["metrics"].keys()


def step_of(folder: Path, stage: str) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    for file in folder.glob(f"runs/{stage}-*/last.ckpt/step"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # replaced while it was read
            return int(file.read_text())
    return 0


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    (file,) = folder.glob(f"runs/{stage}-*/weights.pt")
    return torch.load(file)


@pytest.mark.slow
def test_a_full_disk_is_named_and_leaves_whole_checkpoints(tmp_path: Path) -> None:
    shop, small = tmp_path / "shop", tmp_path / "small"
    for folder in (shop, small):
        folder.mkdir()
    write_shop(shop)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", small], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        overrides = ["trainer.checkpoint_every=1", "ranker.model.leaf_dim=64", f"paths.runs={small}/runs"]
        filled = command(*train_arguments(tmp_path, shop, *overrides))
        assert filled.returncode == 1
        assert filled.stderr.splitlines()[-1].startswith("error: no space is left below")
        assert not list(small.glob("runs/ranker-*/last.ckpt"))
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        resumed = command(*train_arguments(tmp_path, shop, *overrides))
        assert resumed.returncode == 0, resumed.stderr[-3000:]
    finally:
        subprocess.run(["umount", small], check=True)
