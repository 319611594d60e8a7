"""The optimizers and learning-rate schedules that a config names, for dense layers and for tables.

retrieval.train.optimizer={_target_: torch.optim.AdamW, weight_decay: 0.01}
ranker.train.schedule={_target_: training.learning_rate.warmup_cosine, warmup_steps: 200}
"""

import inspect
import math
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from training.config_targets import TARGET, build_target, import_object
from training.errors import ConfigError
from training.learning_rate import FunctionSchedule, Schedule

STAGES = ("retrieval", "ranker")  # stages whose `train` names an optimizer and a schedule
# Classes with fused kernels for CPUs and GPUs, and the settings with which these cannot be used.
FUSED_CLASSES = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
UNFUSED_SETTINGS = {"fused", "foreach", "differentiable"}
GPU_TABLE_OPTIMIZERS = ("adam", "rowwise_adam")  # FBGEMM has no CPU kernel for these


def check_optimizers(cfg: DictConfig) -> None:
    """Raises ConfigError for an optimizer or schedule that cannot be built, or a schedule without a rate."""
    for stage in STAGES:
        train = cfg[stage].train
        make_optimizer(stage, train, [{"params": [nn.Parameter(torch.zeros(1))]}])
        schedule, max_steps = make_schedule(stage, train, train.max_steps), train.max_steps
        for step in (0, max_steps // 2, max_steps):
            try:
                factor = float(schedule.factor(step))
            except Exception as error:
                raise ConfigError(f"{stage}.train.schedule: {type(error).__name__}: {error}") from error
            if not (math.isfinite(factor) and factor >= 0):
                raise ConfigError(
                    f"{stage}.train.schedule: the factor of step {step} of {max_steps} is {factor}: expected "
                    "a share of the learning rate, 0 or more"
                )
        if train.table_optimizer in GPU_TABLE_OPTIMIZERS and cfg.trainer.accelerator == "cpu":
            raise ConfigError(
                f"{stage}.train.table_optimizer={train.table_optimizer} runs on GPUs only (trainer=gpu): set "
                "rowwise_adagrad, adagrad or sgd"
            )


def make_optimizer(stage: str, train: DictConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make the optimizer `<stage>.train.optimizer` for parameter groups, with the stage's learning rate.

    Raises ConfigError for an optimizer that cannot be built.
    """
    key, settings = f"{stage}.train.optimizer", train.optimizer
    if TARGET not in settings:
        raise ConfigError(f"{key}: expected {{{TARGET}: torch.optim.AdamW, …}}")
    target = import_object(f"{key}.{TARGET}", settings[TARGET])
    if target in FUSED_CLASSES and not UNFUSED_SETTINGS & set(settings):
        settings = {**settings, "fused": True}
    optimizer = build_target(key, settings, groups, train.learning_rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"{key}: {settings[TARGET]} is not an optimizer: derive it from torch.optim.Optimizer"
        )
    return optimizer


def make_schedule(stage: str, train: DictConfig, max_steps: int) -> Schedule:
    """Make the schedule `<stage>.train.schedule` for a training of at most `max_steps`.

    A schedule is a function of (step, max_steps), or a class that derives from Schedule and is built from
    (max_steps, patience). Raises ConfigError for anything else.
    """
    key, settings = f"{stage}.train.schedule", train.schedule
    if TARGET not in settings:
        raise ConfigError(f"{key}: expected {{{TARGET}: training.learning_rate.warmup_cosine, …}}")
    target = import_object(f"{key}.{TARGET}", settings[TARGET])
    if not inspect.isclass(target):
        return FunctionSchedule(instantiate(settings, _partial_=True, _convert_="all"), max_steps)
    schedule = build_target(key, settings, max_steps, train.patience)
    if not isinstance(schedule, Schedule):
        raise ConfigError(
            f"{key}: {settings[TARGET]} is not a schedule: give a function of (step, max_steps), or a class "
            "derived from training.learning_rate.Schedule"
        )
    return schedule
