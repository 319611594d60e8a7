"""Losses with parameters of their own: trained beside the ranker, saved in checkpoints, never exported."""

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from training.build_ranker import read_tasks
from training.config_files import CONFIG_DIR
from training.labels import LabelPolicy
from training.loss_balance import make_loss_weighting
from training.ranker import RankerRun, RankerTask
from training.task_settings import TaskSettings


def ranker_task(*overrides: str) -> RankerTask:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides])
    tasks = read_tasks(cfg)
    task: Any = RankerTask(
        build=lambda: nn.Identity(),
        query_sources=(None, None),
        catalog=None,
        tasks=tasks,
        label_policy=LabelPolicy(proxy_clicks=False, has_impressions=True),
        settings=TaskSettings.of(cfg, "ranker", 100, None),
        run=RankerRun(folder=Path(), slates=None),
    )
    task.loss_weighting = make_loss_weighting("uncertainty", [1.0] * len(tasks), None)
    return task


def test_a_loss_with_parameters_is_trained_and_saved() -> None:
    task = ranker_task("++tasks.purchase.loss=escm2_dr")
    (loss,) = task.loss_modules
    assert {id(p) for p in loss.parameters()} < {id(p) for p in task.loss_parameters()}
    nn.init.constant_(loss.risk.output.bias, 0.7)
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    resumed = ranker_task("++tasks.purchase.loss=escm2_dr")
    resumed.on_load_checkpoint(checkpoint)
    assert float(resumed.loss_modules[0].risk.output.bias.detach()) == torch.tensor(0.7)
    assert resumed.losses[1] is resumed.loss_modules[0]


def test_losses_without_parameters_add_none() -> None:
    assert len(ranker_task().loss_parameters()) == 1  # of the weighting
    assert len(ranker_task("++tasks.purchase.loss=escm2_ips").loss_parameters()) == 1
