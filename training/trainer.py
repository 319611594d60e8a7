"""The Lightning trainer of a stage: early stopping, checkpoints, resuming."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger

from training.distributed import processes
from training.distributed.sharding import STEP_FILE, ShardedStrategy
from training.throughput import ProgressLine, Throughput

BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"


class MidEpochCheckpoint(ModelCheckpoint):
    """Saves between steps, but not after an epoch's last: Lightning would resume after its validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


@dataclass(frozen=True, kw_only=True)
class StoppingRule:
    """When training ends, and which weights it keeps: those of the best `monitor`."""

    monitor: str  # a metric of the validation
    mode: Literal["min", "max"]  # which values of it are better
    max_epochs: int
    patience: int  # epochs without a better value


def fit(
    cfg: DictConfig,
    task: pl.LightningModule,
    train: object,
    validation: object,
    folder: Path,
    logger: Logger | bool,
    stopping: StoppingRule,
) -> dict[str, float]:
    """Train until the stopping rule holds; resume from the folder's checkpoint if it has one.

    The best weights end up in `<folder>/best.ckpt`. Returns the metrics of the last epoch and, as
    `best_<monitor>`, that of the weights kept.
    """
    monitor, mode = stopping.monitor, stopping.mode
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = MidEpochCheckpoint(
        folder,
        filename="last",
        every_n_train_steps=cfg.trainer.checkpoint_every,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    throughput = Throughput()
    trainer = pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=local_world_size,
        num_nodes=processes.world_size() // local_world_size,
        use_distributed_sampler=False,  # a stream reads its own share
        precision=cfg.trainer.precision,
        strategy=ShardedStrategy(process_group_backend=processes.backend(cfg)),
        max_epochs=stopping.max_epochs,
        logger=logger,
        callbacks=[
            best,
            last,
            EarlyStopping(monitor, mode=mode, patience=stopping.patience),
            throughput,
            *([ProgressLine(throughput)] if cfg.trainer.progress else []),
        ],
        enable_progress_bar=cfg.trainer.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )  # fmt: skip
    checkpoint = latest_checkpoint(folder)
    if checkpoint and processes.rank() == 0:
        print(f"resuming {folder.name} at step {(checkpoint / STEP_FILE).read_text()}", flush=True)
    trainer.fit(task, train, validation, ckpt_path=checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return metrics | {f"best_{monitor}": float(best.best_model_score or "nan")}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, also of a process that died between the two renames of a save."""
    for name in (LAST_CHECKPOINT, f"{LAST_CHECKPOINT}.old"):
        if (folder / name / ".metadata").is_file():
            return folder / name
    return None
