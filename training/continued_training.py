"""Continues an earlier training from its weights and the state of its optimizers."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from training.distributed.sharding import TRAINER_STATE


class ContinueTraining(pl.Callback):
    """Loads a checkpoint of another training of the same model before the first step.

    New optimizers would take their largest steps first and undo what was learned. The earlier training's
    epochs, steps and position in the data are not loaded.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.global_step > 0:
            return  # this training was killed, and now resumes
        masks = _trained_masks(module)
        own = {name: mask.clone() for name, mask in masks.items()}
        strategy: Any = trainer.strategy
        strategy.load_model_state_dict({"state_dict": {"path": self.checkpoint}})
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        strategy.load_optimizer_state_dict(torch.load(self.checkpoint / TRAINER_STATE, weights_only=False))
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate  # the schedule of this training starts from step 0
        for name, mask in masks.items():
            mask |= own[name]  # the checkpoint has the mask of the earlier training


def _trained_masks(module: Any) -> dict[str, Tensor]:
    """The masks of the rows that a training learns from, by name."""
    buffers = module.model.module.named_buffers()
    return {name: buffer for name, buffer in buffers if name.endswith("trained_mask")}
