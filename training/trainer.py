"""The Lightning trainer of a stage: early stopping, checkpoints, resuming."""

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import Logger

from training.parallel import ShardedStrategy

BEST, LAST = "best.ckpt", "last.ckpt"


def fit(
    cfg: DictConfig,
    task: pl.LightningModule,
    train: object,
    validation: object,
    folder: Path,
    logger: Logger,
    monitor: str,
    mode: str,
    epochs: int,
    patience: int,
) -> dict[str, float]:
    """Train until `epochs`, or `patience` epochs without a better `monitor`; resume if a checkpoint is there.

    The best weights end up in `<folder>/best.ckpt`. Returns the metrics of the last epoch.
    """
    backend = "nccl" if cfg.trainer.accelerator == "gpu" else "gloo"
    best = ModelCheckpoint(folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    last = ModelCheckpoint(
        folder,
        filename="last",
        every_n_train_steps=cfg.trainer.checkpoint_every,
        monitor=None,
        save_top_k=1,
        enable_version_counter=False,
    )
    trainer = pl.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        precision=cfg.trainer.precision,
        strategy=ShardedStrategy(process_group_backend=backend),
        max_epochs=epochs,
        logger=logger,
        callbacks=[
            best,
            last,
            EarlyStopping(monitor, mode=mode, patience=patience),
            *([TQDMProgressBar(refresh_rate=10)] if cfg.trainer.progress else []),
        ],
        enable_progress_bar=cfg.trainer.progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
        gradient_clip_val=None,
    )  # fmt: skip
    checkpoint = latest_checkpoint(folder)
    if checkpoint:
        print(f"resuming {folder.name} from {checkpoint.name}", flush=True)
    trainer.fit(task, train, validation, ckpt_path=checkpoint)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint, also when a kill came between the two renames of a save."""
    for name in (LAST, f"{LAST}.old"):
        if (folder / name / ".metadata").is_file():
            return folder / name
    return None
