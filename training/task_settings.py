"""Settings that both Lightning modules share."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from omegaconf import DictConfig
from torch import Tensor

from training.distributed import processes
from training.learning_rate import Schedule
from training.optimizers import make_optimizer, make_schedule


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The learning settings of a Lightning module."""

    stage: str  # `retrieval` or `ranker`
    train: DictConfig  # the stage's `train` of the config
    schedule: Schedule  # of the learning rate
    seed: int
    sharding: str  # of the tables (training/distributed/sharding.py)
    initial_weights: dict[str, Tensor] | None  # initial weights by name; None for random weights

    @classmethod
    def of(
        cls, cfg: DictConfig, stage: str, max_steps: int, initial_weights: dict[str, Tensor] | None
    ) -> Self:
        """The settings of a stage of a run, for a training of at most `max_steps`."""
        train = cfg[stage].train
        return cls(
            stage=stage,
            train=train,
            schedule=make_schedule(stage, train, max_steps),
            seed=cfg.seed,
            sharding=cfg.trainer.sharding,
            initial_weights=initial_weights,
        )

    def configure_optimizers(self, groups: list[dict[str, Any]]) -> Any:
        """Optimizer and schedule of parameter groups, as a LightningModule returns them."""
        optimizer = make_optimizer(self.stage, self.train, groups)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule.factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def step_seed(self, step: int) -> int:
        """The seed of a step's random draws in this process. A resumed run repeats the draws."""
        return (self.seed * 1_000_003 + step) * processes.world_size() + processes.rank()
