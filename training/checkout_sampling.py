"""Which checkouts each stage trains on, and for how many epochs."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig

from data.examples.splits import horizon_days
from models.schema import SECONDS_PER_DAY

MAX_RECENT_CHECKOUTS = 2000  # of a split, that recalibration reads
MAX_EPOCHS = 20  # however few checkouts a shop has


def count_retrieval_rows(rows: int, share: float) -> int:
    """The number of rows that retrieval trains on: at least one for it and one for the ranker."""
    return min(max(round(rows * share), 1), rows - 1)


def first_ranker_row(examples: Path, n_retrieval_rows: int, horizon: str) -> int:
    """The first training row after the horizon of the last of the `n_retrieval_rows`.

    Without the gap where it costs more than half of the remaining rows, as in a shop of few weeks.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()
    gap = (horizon_days(horizon) or 0) * SECONDS_PER_DAY
    row = int(np.searchsorted(ts, ts[n_retrieval_rows - 1] + gap, side="right"))
    return row if 2 * (len(ts) - row) >= len(ts) - n_retrieval_rows else n_retrieval_rows


def count_epochs(settings: DictConfig, steps: int) -> int:
    """`settings.epochs` of `steps` each, or more of them until they make `settings.min_steps`."""
    return max(settings.epochs, min(MAX_EPOCHS, -(-settings.min_steps // steps)))


def report_epochs(stage: str, settings: DictConfig, epochs: int) -> None:
    """Print that a stage trains for more epochs than `<stage>.train.epochs`, and which setting wants it."""
    if epochs > settings.epochs:
        print(
            f"{stage}: {epochs} epochs, more than {stage}.train.epochs={settings.epochs}, for "
            f"{stage}.train.min_steps={settings.min_steps} (min_steps=1 keeps to epochs)",
            flush=True,
        )
