"""A last pass over validation, once it has chosen and calibrated: what serves should know the latest weeks.

    train ──────────────▶ chosen.pt ── calibrated and judged on validation
      └ a sample ┐            │
    validation ──┴─ one pass ─┴──▶ weights.pt ── judged on test, and served

The sample keeps what older weeks taught. The calibration stays that of the chosen ranker: measured on what a
ranker has learned from, it would look better than it is.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from data.batches import Batches
from models.ranker import Ranker
from training.parallel import build_and_load
from training.ranker import RankerTask
from training.trainer import BEST, fit

CHOSEN, WEIGHTS = "chosen.pt", "weights.pt"  # of a run


def refit(
    cfg: DictConfig, build: Callable[[], Ranker], task: RankerTask, gathered: Path, run: Path, logger: Logger
) -> Ranker:
    """The ranker of `<run>/chosen.pt`, made by `build`, after one pass over the latest weeks.

    `task` is the one that trained it; `gathered` holds {train,validation}.parquet with candidates.
    """
    folder = run / "refit"
    folder.mkdir(exist_ok=True)
    rate = {"learning_rate": cfg.ranker.train.refit_learning_rate}
    settings = OmegaConf.merge(cfg.ranker.train, rate)
    assert isinstance(settings, DictConfig)
    file = latest_weeks(gathered, folder / "checkouts.parquet", cfg.seed)
    train = Batches(file, settings.batch_size, seed=cfg.seed, shuffle=True)
    validation = Batches(gathered / "validation.parquet", 256, seed=0, shuffle=False)

    def chosen() -> Ranker:
        ranker = build()
        ranker.load_state_dict(torch.load(run / CHOSEN))
        return ranker

    fit(
        cfg, RankerTask(chosen, *task.frozen, task.rule, settings, len(train), cfg.seed, folder), train,
        validation, folder, logger, monitor="val_loss", mode="min", epochs=1, patience=1,
    )  # fmt: skip
    file.unlink()
    return build_and_load(build, folder / BEST)


def latest_weeks(gathered: Path, target: Path, seed: int) -> Path:
    """Write validation and as many random training checkouts to `target`, row groups in a random order.

    `gathered` holds {train,validation}.parquet; they are read one row group at a time.
    """
    if target.exists():
        return target
    draw = np.random.default_rng(seed)
    partial = target.with_suffix(".partial")
    with (
        pq.ParquetFile(gathered / "validation.parquet") as new,
        pq.ParquetFile(gathered / "train.parquet") as old,
    ):
        share = min(1.0, new.metadata.num_rows / old.metadata.num_rows)
        parts = [(new, group) for group in range(new.num_row_groups)]
        parts += [(old, group) for group in range(old.num_row_groups)]
        with pq.ParquetWriter(partial, old.schema_arrow, compression="zstd") as writer:
            for at in draw.permutation(len(parts)):
                file, group = parts[at]
                rows = file.read_row_group(group)
                if file is old:
                    rows = rows.filter(draw.random(len(rows)) < share)
                if len(rows):
                    writer.write_table(rows)
    os.replace(partial, target)
    return target
