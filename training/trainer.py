"""The Lightning trainer of a stage: early stopping, checkpoints, resuming."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import Logger

from training.distributed import processes
from training.distributed.sharding import STEP_FILE, ShardedStrategy
from training.throughput import ProgressLine, Throughput

BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"


class MidEpochCheckpoint(ModelCheckpoint):
    """Saves between steps but not after an epoch's last: Lightning would resume behind its validation."""

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *rest)


def fit(
    cfg: DictConfig,
    task: pl.LightningModule,
    train: object,
    validation: object,
    folder: Path,
    logger: Logger | bool,
    monitor: str,
    mode: str,
    epochs: int,
    patience: int,
) -> dict[str, float]:
    """Train until `epochs`, or `patience` epochs without a better `monitor`; resume if a checkpoint is there.

    The best weights end up in `<folder>/best.ckpt`. Returns the metrics of the last epoch and, as
    `best_<monitor>`, that of the weights kept.
    """
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = MidEpochCheckpoint(
        folder,
        filename="last",
        every_n_train_steps=cfg.trainer.checkpoint_every,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun says
    throughput = Throughput()
    trainer = pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=local,
        num_nodes=processes.world_size() // local,
        use_distributed_sampler=False,  # a stream takes its own share
        precision=cfg.trainer.precision,
        strategy=ShardedStrategy(process_group_backend=processes.backend(cfg)),
        max_epochs=epochs,
        logger=logger,
        callbacks=[
            best,
            last,
            EarlyStopping(monitor, mode=mode, patience=patience),
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
    """The newest complete checkpoint, also when a kill came between the two renames of a save."""
    for name in (LAST_CHECKPOINT, f"{LAST_CHECKPOINT}.old"):
        if (folder / name / ".metadata").is_file():
            return folder / name
    return None
