"""The Lightning trainer of a stage: early stopping, checkpoints, resuming."""

import inspect
import math
import os
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from training.callbacks import PROFILE, make_callbacks, make_profiler
from training.config_keys import suggest_names
from training.config_limits import NO_LIMIT
from training.continued_training import ContinueTraining
from training.distributed import processes
from training.distributed.sharding import STEP_FILE, ShardedStrategy
from training.errors import ConfigError
from training.learning_rate import ScheduleProgress
from training.loggers import close_loggers, log_config
from training.throughput import ProgressLine, Throughput

BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"
MAX_PATIENCE = 12  # validations
SET_BY_STAGES = {  # argument of Lightning's Trainer → where it is set instead
    "max_epochs": "set retrieval.train.epochs or ranker.train.epochs",
    "max_steps": "set retrieval.train.max_steps or ranker.train.max_steps",
    "val_check_interval": "set retrieval.train.validate_every or ranker.train.validate_every",
    "check_val_every_n_epoch": "validations count steps: retrieval.train.validate_every",
    "accumulate_grad_batches": "the tables' optimizer steps with every batch; set batch_size",
    "precision": "set trainer.precision",
    "accelerator": "set trainer.accelerator",
    "enable_progress_bar": "set trainer.progress",
    "devices": "start the processes by torchrun",
    "num_nodes": "start the processes by torchrun",
    "strategy": "TorchRec shards the tables: trainer.sharding",
    "use_distributed_sampler": "every process reads its own share",
    "callbacks": "add yours to callbacks, such as 'callbacks.lr={_target_: "
    "pytorch_lightning.callbacks.LearningRateMonitor}'",
    "profiler": "set trainer.profiler",
    "logger": "choose the loggers: logger=[mlflow,csv]",
    "enable_model_summary": "the run's config tells the model",
    "fast_dev_run": "experiment=fast_dev_run is one batch of each stage",
    "overfit_batches": "experiment=overfit is one batch, many times",
    "num_sanity_val_steps": "the first validation comes early enough",
}


class MidEpochCheckpoint(ModelCheckpoint):
    """Saves between steps, but neither after an epoch's last step nor before a validation.

    From such a state, Lightning would resume after the validation and skip it.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        interval = int(trainer.val_check_batch or 1)
        is_validation_due = (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % interval == 0
        if not trainer.is_last_batch and not is_validation_due:
            super().on_train_batch_end(trainer, *arguments)


class GainStopping(EarlyStopping):
    """Stops after `patience` validations without a gain of at least a share of the best value.

    The last few percent of a metric take most of the steps: towers improve for thousands of steps without
    changing the ranker's slates (docs/results/limits.md).
    """

    def __init__(self, monitor: str, mode: str, patience: int, min_gain: float) -> None:
        super().__init__(monitor, mode=mode, patience=patience)
        self.min_gain = min_gain

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        best = float(self.best_score)
        sign = 1 if self.mode == "max" else -1
        self.min_delta = sign * self.min_gain * abs(best) if math.isfinite(best) else 0.0
        return super()._evaluate_stopping_criteria(current)


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """The rule for the end of training. The weights with the best `monitor` are kept."""

    monitor: str  # a metric of the validation
    mode: Literal["min", "max"]  # whether lower (min) or higher (max) values are better
    max_epochs: int
    validate_every: int  # in steps, across epochs; at most an epoch
    patience: int  # validations without a better value; more where epochs are short, see `patience_between`
    max_steps: int = NO_LIMIT  # approximate, because a training has whole epochs
    min_gain: float = 0.0  # the least gain, as a share of the best value
    continued: Path | None = None  # the checkpoint of the training that this training continues

    @classmethod
    def of(cls, train: DictConfig, monitor: str, mode: Literal["min", "max"]) -> Self:
        """The rule of `retrieval.train` or `ranker.train`."""
        return cls(
            monitor=monitor,
            mode=mode,
            max_epochs=train.epochs,
            max_steps=train.max_steps,
            validate_every=train.validate_every,
            patience=train.patience,
            min_gain=train.get("min_gain", 0.0),
        )

    def count_epochs(self, n_steps: int) -> int:
        """Epochs of `n_steps` in the longest training: `max_epochs`, or nearest `max_steps`, at least one."""
        return min(self.max_epochs, max(round(self.max_steps / n_steps), 1))

    def count_steps(self, n_steps: int) -> int:
        """Steps of the longest training, in epochs of `n_steps`."""
        return n_steps * self.count_epochs(n_steps)


def validation_interval(validate_every: int, epoch_steps: int, n_epochs: int) -> int:
    """The number of steps between two validations.

    The interval is `validate_every`, or an epoch if that is shorter, but at least an eighth of
    `validate_every`. The interval is adapted so that the last validation falls on the end of the training, up
    to one step per validation. A short training has a single validation, at its end.
    """
    n_steps = epoch_steps * n_epochs
    interval = min(validate_every, max(epoch_steps, validate_every // 8))
    return max(n_steps // max(round(n_steps / interval), 1), 1)


def patience_between(stopping: StoppingRule, interval: int) -> int:
    """The patience, as a number of validations that are `interval` steps apart.

    Short epochs make validations frequent, and few checkouts make them noisy. Without more patience a small
    shop's training would end by chance after a hundred steps.
    """
    as_many_steps = -(-stopping.patience * stopping.validate_every // interval)
    return max(stopping.patience, min(as_many_steps, MAX_PATIENCE))


def fit(
    cfg: DictConfig,
    task: Any,
    train: Sized,
    validation: object,
    folder: Path,
    loggers: list[Logger],
    stopping: StoppingRule,
) -> dict[str, float]:
    """Train until the stopping rule holds. Resume from the folder's checkpoint if it has one.

    The best weights are saved in `<folder>/best.ckpt`. Returns the metrics of the last validation, and with
    them the number of `steps`, `best_<monitor>`, and `best_epochs`: the passes over the data until the best
    weights.
    """
    monitor, mode, epoch_steps = stopping.monitor, stopping.mode, count_epoch_steps(cfg, len(train))
    n_epochs = stopping.count_epochs(epoch_steps)
    interval = validation_interval(stopping.validate_every, epoch_steps, n_epochs)
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    throughput = Throughput()
    schedule = task.settings.schedule
    patience = NO_LIMIT if schedule.ends_training else patience_between(stopping, interval)
    callbacks = [
        best,
        _last_checkpoint(folder, cfg.trainer.checkpoint_every),
        ScheduleProgress(schedule, monitor, mode),
        GainStopping(monitor, mode, patience, stopping.min_gain),
        throughput,
        *([ContinueTraining(stopping.continued)] if stopping.continued else []),
        *make_callbacks(cfg, folder),
        *([ProgressLine(throughput)] if cfg.trainer.progress else []),
    ]
    checkpoint = latest_checkpoint(folder)
    if checkpoint and processes.rank() == 0:
        print(f"resuming {folder.name} at step {(checkpoint / STEP_FILE).read_text()}", flush=True)
    log_config(cfg, loggers)
    profiler = make_profiler(cfg.trainer.profiler, folder) if processes.rank() == 0 else None
    try:
        # Steps count across epochs: on few checkouts several epochs pass between two validations.
        trainer = _make_trainer(
            cfg,
            callbacks=callbacks,
            logger=loggers or DummyLogger(),  # some callbacks need a logger
            profiler=profiler,
            max_epochs=n_epochs,
            check_val_every_n_epoch=None,
            val_check_interval=interval,
        )
        trainer.fit(task, train, validation, ckpt_path=checkpoint)
    except MisconfigurationException as error:  # usually an error of a callback
        raise ConfigError(f"Lightning refuses {folder.name}: {error}") from error
    close_loggers(loggers)
    if profiler is not None:
        print(f"profile: {folder}/*{PROFILE}*", flush=True)
    return _final_metrics(trainer, best, folder, epoch_steps)


def _last_checkpoint(folder: Path, every: int) -> MidEpochCheckpoint:
    """The callback that keeps the newest state, from which a training resumes."""
    return MidEpochCheckpoint(
        folder,
        filename="last",
        every_n_train_steps=every,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )


def _make_trainer(cfg: DictConfig, **arguments: Any) -> pl.Trainer:
    """A trainer of all processes, with the settings of `trainer` and these arguments of a stage."""
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    return pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=local_world_size,
        num_nodes=processes.world_size() // local_world_size,
        use_distributed_sampler=False,  # a stream reads only the process's share
        precision=cfg.trainer.precision,
        strategy=ShardedStrategy(process_group_backend=processes.backend(cfg)),
        enable_progress_bar=cfg.trainer.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"log_every_n_steps": 20, **extra_arguments(cfg), **arguments},
    )


def count_epoch_steps(cfg: DictConfig, n_batches: int) -> int:
    """The steps of an epoch of `n_batches`, at least one. `trainer.extra.limit_train_batches` limits them."""
    limit = extra_arguments(cfg).get("limit_train_batches", 1.0)
    return max(int(n_batches * limit) if isinstance(limit, float) else min(limit, n_batches), 1)


def extra_arguments(cfg: DictConfig) -> dict[str, Any]:
    """Further arguments of Lightning's Trainer, `trainer.extra`.

    Raises ConfigError for an argument that Trainer lacks, that a stage sets itself, or that conflicts with
    fused tables.
    """
    extra: Any = {} if cfg.trainer.extra is None else OmegaConf.to_container(cfg.trainer.extra)
    known = inspect.signature(pl.Trainer.__init__).parameters
    for name in extra:
        if name.startswith("gradient_clip"):
            raise ConfigError(
                f"trainer.extra.{name}: the tables' optimizer steps inside the backward pass, so their "
                "gradients cannot be clipped with the others; lower retrieval.train.table_learning_rate or "
                "ranker.train.table_learning_rate"
            )
        if name in SET_BY_STAGES:
            raise ConfigError(f"trainer.extra.{name}: the stage sets it; {SET_BY_STAGES[name]}")
        if name not in known:
            hint = suggest_names(name, [*known])
            raise ConfigError(f"trainer.extra.{name}: Lightning's Trainer has no such argument.{hint}")
    return dict(extra)


def _final_metrics(
    trainer: pl.Trainer, best: ModelCheckpoint, folder: Path, epoch_steps: int
) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    best_step = int((folder / BEST_CHECKPOINT / STEP_FILE).read_text())
    best_score = float("nan") if best.best_model_score is None else float(best.best_model_score)
    n_steps = {"steps": trainer.global_step, "best_epochs": best_step / epoch_steps}
    return metrics | n_steps | {f"best_{best.monitor}": best_score}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, even if a process died between the two renames of a save."""
    for name in (LAST_CHECKPOINT, f"{LAST_CHECKPOINT}.old"):
        if (folder / name / ".metadata").is_file():
            return folder / name
    return None
