"""Examples as jagged batches of tensors, straight from Parquet columns, without a loop over rows.

    files ─ row groups, shuffled per epoch ─▶ buffers of several groups ─ permuted ─▶ one stream of rows
    stream:   |   global batch 0   |   global batch 1   | … |  last, shorter  |
                rank 0   rank 1      rank 0   rank 1          0    1

The stream depends on (seed, epoch) alone. Every rank takes its share of every global batch, so that all
ranks see the same number of batches, no row twice and none lost. A rank's share of the last batch can be
empty when fewer rows than ranks are left; `drop_last` avoids both that and a smaller last batch.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from models.inputs import Candidates, Outcomes, Query

BUFFER = 16  # row groups that are shuffled together
AHEAD = 2  # batches made ahead of the consumer, in one thread

HISTORY = {"item": np.int64, "ts": np.int64, "kind": np.int64, "quantity": np.float32, "price": np.float32}
BASKET = {"item": np.int64, "quantity": np.float32, "price": np.float32}
OUTCOMES = {
    "item": np.int64, "shown": np.bool_, "click": np.bool_, "purchase": np.bool_, "value": np.float32,
    "position": np.int64,
}  # fmt: skip
CANDIDATES = {
    "item": np.int64, "source": np.int64, "score": np.float32, "affinity": np.float32, "taste": np.float32,
}  # fmt: skip


class Batch(NamedTuple):
    query: Query
    outcomes: Outcomes
    candidates: Candidates | None  # None where the file has none
    order_id: pa.Array  # [B] string; Arrow, because only reports ever turn them into Python strings
    user_id: pa.Array  # [B] string
    n_before: Tensor  # [B] int64, earlier checkouts of the user


class Batches:
    """Iterates over the batches of one example file.

    `batch_size` is the number of checkouts per rank. Iterating yields one epoch and then moves on to the
    next (`epoch` + 1). `state_dict` counts the batches that the consumer has received; after
    `load_state_dict` the next iteration goes on behind them. Raises ValueError for a file that
    lacks columns of an example, or for a rank outside the world.
    """

    def __init__(
        self,
        path: str | Path,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        max_history: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        candidates: bool = True,
    ) -> None:
        if not 0 <= rank < world_size or batch_size < 1:
            raise ValueError(f"rank {rank} of {world_size} with batch size {batch_size} makes no sense")
        self.path, self.batch_size, self.seed, self.shuffle = Path(path), batch_size, seed, shuffle
        self.max_history, self.drop_last = max_history, drop_last
        self.rank, self.world_size = rank, world_size
        meta = pq.read_metadata(self.path)
        names = set(pq.read_schema(self.path).names)
        self._columns = _columns(names, candidates)
        if not set(self._columns) <= names:
            raise ValueError(f"{self.path}: columns {sorted(set(self._columns) - names)} are missing")
        self._group_rows = [meta.row_group(g).num_rows for g in range(meta.num_row_groups)]
        self.rows = meta.num_rows
        self.epoch = 0
        self._received = 0  # batches of this epoch that the consumer has
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        together = self.batch_size * self.world_size
        return self.rows // together if self.drop_last else -(-self.rows // together)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._received}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._resume_at = int(state["epoch"]), int(state["batch"])
        self._received = self._resume_at

    def __iter__(self) -> Iterator[Batch]:
        first, self._resume_at = self._resume_at, 0
        self._received = first
        source = self._batches(self.epoch, first)
        pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        waiting: deque[Future[Batch | None]] = deque()
        try:
            for _ in range(AHEAD):
                waiting.append(pool.submit(next, source, None))
            while (batch := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(next, source, None))
                self._received += 1
                if self._received == len(self):  # a trainer takes that many and never asks for the end
                    self.epoch, self._received = self.epoch + 1, 0
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Batches `first` and later of this rank, in the stream of `epoch`."""
        together = self.batch_size * self.world_size
        spans = []
        for b in range(first, len(self)):
            start, stop = b * together, min((b + 1) * together, self.rows)
            n = stop - start
            low, high = (start + n * r // self.world_size for r in (self.rank, self.rank + 1))
            spans.append((low, high))
        if not spans:
            return
        parts: list[pa.Table] = []
        todo = iter(spans)
        low, high = next(todo)
        for begin, rows in self._stream(epoch, low):
            end = begin + rows.size
            while low < end or high <= end:
                if high > low:
                    parts.append(rows.take(max(low, begin) - begin, min(high, end) - begin))
                if high > end:
                    break  # the rest of this batch is in the next buffer
                yield to_batch(pa.concat_tables(parts or [rows.take(0, 0)]), self.max_history)
                parts = []
                span = next(todo, None)
                if span is None:
                    return
                low, high = span

    def _stream(self, epoch: int, first: int) -> Iterator[tuple[int, "_Buffer"]]:
        """(position in the stream, buffer) from the buffer that holds row `first` on; earlier ones unread."""
        groups = np.arange(len(self._group_rows))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(groups)
        begin = 0
        with pq.ParquetFile(self.path) as file:
            for at in range(0, len(groups), BUFFER):
                mine = groups[at : at + BUFFER].tolist()
                count = sum(self._group_rows[g] for g in mine)
                if begin + count > first:
                    order = np.arange(count)
                    if self.shuffle:
                        # Its own generator: a resumed run does not draw for the buffers that it skips.
                        np.random.default_rng([self.seed, epoch, at]).shuffle(order)
                    table = file.read_row_groups(mine, columns=self._columns).combine_chunks()
                    yield begin, _Buffer(table, order, count)
                begin += count


class _Buffer(NamedTuple):
    table: pa.Table
    order: np.ndarray
    size: int  # rows

    def take(self, start: int, stop: int) -> pa.Table:
        return self.table.take(pa.array(self.order[start:stop]))


def _columns(names: set[str], candidates: bool) -> list[str]:
    columns = ["order_id", "user_id", "ts", "snapshot", "n_before", "context", "profile"]
    groups: dict[str, dict[str, Any]] = {"history": HISTORY, "basket": BASKET, "outcome": OUTCOMES}
    if candidates and "candidate_item" in names:
        groups["candidate"] = CANDIDATES
    return columns + [f"{group}_{c}" for group, fields in groups.items() for c in fields]


def to_batch(table: pa.Table, max_history: int | None = None) -> Batch:
    """The batch of a table of examples; `max_history` keeps the latest facts of every history."""
    query = Query(
        ts=_flat(table["ts"], np.int64),
        snapshot=_flat(table["snapshot"], np.int64),
        **_jagged(table, "history", HISTORY, max_history),
        **_jagged(table, "basket", BASKET),
        context=_matrix(table["context"]),
        profile=_matrix(table["profile"]),
    )
    candidates = None
    if "candidate_item" in table.column_names:
        candidates = Candidates(**_unprefixed(_jagged(table, "candidate", CANDIDATES)))
    return Batch(
        query=query,
        outcomes=Outcomes(**_unprefixed(_jagged(table, "outcome", OUTCOMES))),
        candidates=candidates,
        order_id=_array(table["order_id"]),
        user_id=_array(table["user_id"]),
        n_before=_flat(table["n_before"], np.int64),
    )


def _array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _flat(column: pa.ChunkedArray, dtype: Any) -> Tensor:
    # A copy: Arrow's memory is read-only.
    return torch.from_numpy(np.array(_array(column).to_numpy(zero_copy_only=False), dtype=dtype))


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Offsets from 0 and the values between the first and the last of them.

    A sliced list array shares its parent's values, so the offsets of the slice are what counts.
    """
    lists = _array(column)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], lists.values.slice(offsets[0], offsets[-1] - offsets[0])


def _jagged(
    table: pa.Table, group: str, fields: dict[str, Any], keep: int | None = None
) -> dict[str, Tensor]:
    """`{group}_offsets` [B+1] and `{group}_{field}` [Σ] of parallel list columns."""
    out: dict[str, Tensor] = {}
    chosen: np.ndarray | None = None
    for field, dtype in fields.items():
        offsets, values = _lists(table[f"{group}_{field}"])
        if f"{group}_offsets" not in out:
            lengths = np.diff(offsets)
            if keep is not None and lengths.size and lengths.max() > keep:
                lengths = np.minimum(lengths, keep)
                kept = np.concatenate([[0], np.cumsum(lengths)])
                chosen = np.arange(kept[-1]) + np.repeat(offsets[1:] - kept[1:], lengths)
                out[f"{group}_offsets"] = torch.from_numpy(kept)
            else:
                out[f"{group}_offsets"] = torch.from_numpy(offsets)
        flat = values.to_numpy(zero_copy_only=False)
        flat = flat if chosen is None else flat[chosen]
        out[f"{group}_{field}"] = torch.from_numpy(np.array(flat, dtype=dtype))
    return out


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.split("_", 1)[1]: tensor for name, tensor in tensors.items()}


def _matrix(column: pa.ChunkedArray) -> Tensor:
    """Lists of one length as [B, length]."""
    _, values = _lists(column)
    rows = len(column)
    flat = np.array(values.to_numpy(zero_copy_only=False), dtype=np.int64)
    return torch.from_numpy(flat.reshape(rows, len(flat) // rows if rows else 0))
