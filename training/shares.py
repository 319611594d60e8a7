"""Which checkouts each stage learns from, and how often."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig

from data.splits import horizon_days
from training.config import ConfigError
from training.warm import Warm

MOST_EPOCHS = 20  # however few checkouts there are


def rows_for_retrieval(examples: Path, share: float, warm: Warm | None) -> tuple[int, int]:
    """The rows that retrieval learns from, first and end: the earliest `share`, of those since a warm start.

    Raises ConfigError where fewer than two checkouts came since.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()  # rising
    first = int(np.searchsorted(ts, warm.since)) if warm else 0
    if len(ts) - first < 2:
        raise ConfigError(f"warm.run: {len(ts) - first} training checkouts came since {warm and warm.name}")
    return first, first + share_of(len(ts) - first, share)


def share_of(rows: int, share: float) -> int:
    """How many rows retrieval learns from; at least one for it and one for the ranker."""
    return min(max(round(rows * share), 1), rows - 1)


def unseen_by_retrieval(examples: Path, first: int, end: int, horizon: str) -> int:
    """The first training checkout after the horizon of the last one that retrieval learned from, which were
    the rows `first` to `end`.

    The gap is left out where it would cost more than half of what is left, as in a shop of few weeks.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()
    gap = (horizon_days(horizon) or 0) * 86_400
    after = int(np.searchsorted(ts, ts[end - 1] + gap, side="right"))
    return after if 2 * (len(ts) - after) >= len(ts) - end else end


def enough_epochs(settings: DictConfig, steps: int) -> int:
    """`epochs` of so many steps each, or more of them until they make `least_steps`."""
    return max(settings.epochs, min(MOST_EPOCHS, -(-settings.least_steps // steps)))
