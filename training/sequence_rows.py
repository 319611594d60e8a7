"""Selects checkouts whose sequences hold every training order once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.io.parquet import iter_slices
from serving.files import write_atomically

CHUNK = 16_384  # rows


def write_sequence_rows(examples: Path, stop: int, max_orders: int, target: Path) -> float:
    """Select rows of `examples` before `stop` that together hold each order of a user once. Write them.

    A sequence ends with the checkout of its row and has up to `max_orders` orders. So the rows are a user's
    latest checkout, the one `max_orders` before it, and so on.

    Returns the mean number of orders in a sequence.
    """
    users = pa.concat_tables(iter_slices(examples, ["user_id"], 0, stop, CHUNK))["user_id"]
    user = users.cast(pa.large_string()).combine_chunks().dictionary_encode()
    kept = latest_rows(user.indices.to_numpy(), max_orders)
    orders = []
    with write_atomically(target) as partial:
        writer: pq.ParquetWriter | None = None
        start = 0
        for table in iter_slices(examples, None, 0, stop, CHUNK):
            rows = kept[np.searchsorted(kept, start) : np.searchsorted(kept, start + len(table))] - start
            start += len(table)
            part = table.take(rows)
            orders.append(np.minimum(part["n_prior_orders"].to_numpy() + 1, max_orders))
            writer = writer or pq.ParquetWriter(partial, table.schema, compression="zstd")
            writer.write_table(part, row_group_size=1024)
        if writer is not None:
            writer.close()
    return float(np.concatenate(orders).mean()) if orders else 1.0


def latest_rows(user: NDArray, every: int) -> NDArray:
    """Returns rising positions [m] in `user` [n]: each user's last row, and each `every`-th row before it."""
    order = np.argsort(user, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(user[order])), len(user) - 1)  # of each user's run in `order`
    run = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    from_end = ends[run] - np.arange(len(user))
    return np.sort(order[from_end % every == 0])
