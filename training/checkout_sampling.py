"""Which checkouts each stage learns from, and how often."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig

from data.examples.splits import horizon_days

MAX_EPOCHS = 20  # however few checkouts there are


def count_retrieval_rows(rows: int, share: float) -> int:
    """How many rows retrieval learns from; at least one for it and one for the ranker."""
    return min(max(round(rows * share), 1), rows - 1)


def first_ranker_row(examples: Path, n_retrieval_rows: int, horizon: str) -> int:
    """The first training checkout after the horizon of the last of the `learned` rows of retrieval.

    The gap is left out where it would cost more than half of what is left, as in a shop of few weeks.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()
    gap = (horizon_days(horizon) or 0) * 86_400
    after = int(np.searchsorted(ts, ts[n_retrieval_rows - 1] + gap, side="right"))
    return after if 2 * (len(ts) - after) >= len(ts) - n_retrieval_rows else n_retrieval_rows


def count_epochs(settings: DictConfig, steps: int) -> int:
    """`epochs` of so many steps each, or more of them until they make `min_steps`."""
    return max(settings.epochs, min(MAX_EPOCHS, -(-settings.min_steps // steps)))
