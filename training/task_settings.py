"""Settings that both Lightning modules share."""

from dataclasses import dataclass
from typing import Self

from omegaconf import DictConfig
from torch import Tensor

from training.distributed import processes


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """How a Lightning module learns."""

    train: DictConfig  # `retrieval.train` or `ranker.train` of the config
    seed: int
    sharding: str  # of the tables (training/distributed/sharding.py)
    initial_weights: dict[str, Tensor] | None  # by name; None for a random start

    @classmethod
    def of(cls, cfg: DictConfig, train: DictConfig, initial_weights: dict[str, Tensor] | None) -> Self:
        """The settings of a run for one of its modules."""
        return cls(train=train, seed=cfg.seed, sharding=cfg.trainer.sharding, initial_weights=initial_weights)

    def step_seed(self, step: int) -> int:
        """The seed of the draws of a step in this process; a resumed run repeats them."""
        return (self.seed * 1_000_003 + step) * processes.world_size() + processes.rank()
