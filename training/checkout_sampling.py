"""The checkouts that each stage trains on."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data.examples.splits import horizon_days
from data.io.parquet import count_rows
from models.schema import SECONDS_PER_DAY

MAX_ROOT = 0.5  # of `count_further_epochs`
MAX_RECENT_CHECKOUTS = 1000  # checkouts of a split that recalibration reads


def count_retrieval_rows(rows: int, share: float) -> int:
    """The number of rows on which retrieval trains. Retrieval and the ranker get at least one row each."""
    return min(max(round(rows * share), 1), rows - 1)


def first_ranker_row(examples: Path, n_retrieval_rows: int, horizon: str) -> int:
    """The first training row after the horizon of the last of the `n_retrieval_rows`.

    The ranker skips the rows of this horizon, unless they are more than half of the remaining rows, as in a
    shop with few weeks.
    """
    ts = pq.read_table(examples, columns=["ts"])["ts"].to_numpy()
    gap = (horizon_days(horizon) or 0) * SECONDS_PER_DAY
    row = int(np.searchsorted(ts, ts[n_retrieval_rows - 1] + gap, side="right"))
    return row if 2 * (len(ts) - row) >= len(ts) - n_retrieval_rows else n_retrieval_rows


def latest_rows_start(examples: Path, count: int) -> int:
    """The first of the latest `count` rows of a file of examples, which is sorted by time."""
    return max(count_rows(examples) - count, 0)


def count_further_epochs(epochs: float, rows: int, all_rows: int) -> int:
    """The number of passes over `all_rows` that continue a training of `epochs` passes over the first `rows`.

    `epochs` times the share of new rows would give as many steps as one training on all rows. But then few
    new rows would be trained on too seldom. So the factor is the square root of the share, at most a half,
    but never less than the share. The result is at least one.
    """
    share = (all_rows - rows) / all_rows
    return max(round(epochs * max(share, min(math.sqrt(share), MAX_ROOT))), 1)
