"""The loggers of a stage, as the config names them: MLflow's outbox, Lightning's loggers, or the user's.

    logger=csv    'logger=[mlflow,tensorboard]'    '+logger.mine={_target_: my_package.MyLogger}'

Loggers do not change results, so they are not part of a stage's key.
"""

import inspect
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger

from training.config_keys import flatten_config, without_secrets
from training.config_targets import TARGET, build_target, entries_of_classes, fill_in_folder, import_object
from training.errors import ConfigError

GROUP = "logger"  # key of the config
MLFLOW_TARGET = "training.mlflow_outbox.OutboxLogger"
OPTIONAL_PACKAGES = {"pytorch_lightning.loggers.WandbLogger": "wandb"}  # class → the package that it needs


def logs_to_mlflow(cfg: DictConfig) -> bool:
    """Whether the runs of a config are logged to MLflow."""
    return any(settings[TARGET] == MLFLOW_TARGET for settings in entries_of_classes(cfg, GROUP).values())


def check_loggers(cfg: DictConfig) -> None:
    """Raises ConfigError for a logger without a class, and for a logger whose package is not installed."""
    for name, settings in entries_of_classes(cfg, GROUP).items():
        package = OPTIONAL_PACKAGES.get(settings[TARGET])
        if package is not None and find_spec(package) is None:
            raise ConfigError(
                f"{GROUP}.{name}: the package {package} is not installed: pip install {package}, or choose "
                "another logger, such as logger=csv"
            )


def make_other_loggers(cfg: DictConfig, folder: Path) -> list[Logger]:
    """The loggers other than MLflow, for the stage in `folder`.

    In their settings, `{folder}` is the stage's folder and `{id}` its name. A logger whose `save_dir` is not
    set writes to `<folder>/<name of the logger>`. Raises ConfigError for a logger that cannot be built.
    """
    loggers = []
    for name, settings in entries_of_classes(cfg, GROUP).items():
        if settings[TARGET] == MLFLOW_TARGET:
            continue
        key = f"{GROUP}.{name}"
        target = import_object(f"{key}.{TARGET}", settings[TARGET])
        filled = fill_in_folder(settings, folder)
        if "save_dir" in inspect.signature(target).parameters:
            filled.setdefault("save_dir", str(folder / name))
        logger = build_target(key, OmegaConf.create(filled))
        if not isinstance(logger, Logger):
            raise ConfigError(
                f"{key}: {settings[TARGET]} is not a logger of Lightning: derive it from "
                "pytorch_lightning.loggers.Logger"
            )
        loggers.append(logger)
    return loggers


def log_config(cfg: DictConfig, loggers: Sequence[Logger]) -> None:
    """Log the values of the config, by dotted key and without passwords, as hyperparameters."""
    parameters = flatten_config(without_secrets(cfg))
    for logger in loggers:
        logger.log_hyperparams(parameters)


def log_final_metrics(cfg: DictConfig, folder: Path, metrics: dict[str, float]) -> None:
    """Log metrics of a stage after its training to the loggers other than MLflow."""
    loggers = make_other_loggers(cfg, folder) if metrics else []
    for logger in loggers:
        logger.log_metrics(metrics)
        logger.finalize("success")
    close_loggers(loggers)


def close_loggers(loggers: Sequence[Logger]) -> None:
    """Close process-wide state of loggers, so that the next stage does not log to the same W&B run."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
