"""Callbacks and profilers of Lightning that a config adds to the stages."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

from training.config_targets import TARGET, build_target, entries_of_classes, fill_in_folder
from training.errors import ConfigError

GROUP = "callbacks"  # key of the config
REFUSED: dict[type[pl.Callback], str] = {
    LearningRateFinder: "sweep the learning rates: -m ranker.train.learning_rate=1e-3,2e-3",
    GradientAccumulationScheduler: "the tables' optimizer steps with every batch; set batch_size",
    StochasticWeightAveraging: "a stage keeps the weights of the best validation, which are no averages",
    WeightAveraging: "tables that TorchRec shards cannot be copied",
}
PROFILE = "profile"  # in the names of the files of a profiler


def make_callbacks(cfg: DictConfig, folder: Path) -> list[pl.Callback]:
    """The callbacks that the config group `callbacks` names, for the stage in `folder`.

    Raises ConfigError.
    """
    callbacks = []
    for name, settings in entries_of_classes(cfg, GROUP).items():
        key = f"{GROUP}.{name}"
        callback = build_target(key, OmegaConf.create(fill_in_folder(settings, folder)))
        if not isinstance(callback, pl.Callback):
            raise ConfigError(
                f"{key}: {settings[TARGET]} is not a callback of Lightning: derive it from "
                "pytorch_lightning.Callback"
            )
        for refused, reason in REFUSED.items():
            if isinstance(callback, refused):
                raise ConfigError(f"{key}: {settings[TARGET]} cannot be used: {reason}")
        callbacks.append(callback)
    return callbacks


def make_profiler(name: str | None, folder: Path) -> Profiler | None:
    """Lightning's profiler `name`, one of PROFILERS. The profiler writes `fit-profile*` into `folder`."""
    arguments: dict[str, Any] = {"dirpath": folder, "filename": PROFILE}
    if name == "simple":
        return SimpleProfiler(**arguments)
    if name == "advanced":
        return AdvancedProfiler(**arguments)
    return PyTorchProfiler(**arguments) if name == "pytorch" else None
