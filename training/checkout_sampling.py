"""Which checkouts each stage learns from, and how often."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig

from data.examples.splits import horizon_days

MOST_EPOCHS = 20  # however few checkouts there are


def share_of(rows: int, share: float) -> int:
    """How many rows retrieval learns from; at least one for it and one for the ranker."""
    return min(max(round(rows * share), 1), rows - 1)


def unseen_by_retrieval(examples: Path, learned: int, horizon: str) -> int:
    """The first training checkout after the horizon of the last of the `learned` rows of retrieval.

    The gap is left out where it would cost more than half of what is left, as in a shop of few weeks.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()
    gap = (horizon_days(horizon) or 0) * 86_400
    after = int(np.searchsorted(ts, ts[learned - 1] + gap, side="right"))
    return after if 2 * (len(ts) - after) >= len(ts) - learned else learned


def enough_epochs(settings: DictConfig, steps: int) -> int:
    """`epochs` of so many steps each, or more of them until they make `least_steps`."""
    return max(settings.epochs, min(MOST_EPOCHS, -(-settings.least_steps // steps)))
