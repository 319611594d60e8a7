"""Rows of Parquet files as batches: shuffled, sharded by rank, read ahead, resumed anywhere.

    files ─ row groups, shuffled per epoch ─▶ buffers of several groups ─ permuted ─▶ one stream of rows
    stream:   |   global batch 0   |   global batch 1   |   global batch 2   | …
                rank 0   rank 1      rank 0   rank 1      rank 0   rank 1

The stream depends on (seed, epoch) alone. Every rank takes its share of every global batch, so that all
ranks see the same number of batches, no row twice and none lost, and a run goes on with another number of
ranks. Global batches differ by one row at most, so there is no small last one, and no rank's share of it is
empty where there are as many rows as ranks.

What is held are up to three buffers (one in use, one being read and put together) and the batches ahead,
however many rows there are.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from data.io.parquet import RowGroup, open_parquet, parquet_files, read_row_group, row_groups

SHUFFLE_GROUPS = 16  # row groups that are shuffled together
PREFETCH_BATCHES = 2  # batches made ahead of the consumer, in one thread: Arrow works outside Python's lock
T = TypeVar("T")


class BatchStream(Generic[T]):
    """Iterates over the batches of a Parquet file, or of a folder of them.

    `decode` makes a batch of a table with `columns`; `batch_size` is the most rows of a global batch, which
    the ranks share; only the rows `start` to `stop` are read. Iterating yields one epoch and then moves on to
    the next (`epoch` + 1). `state_dict` counts the batches that the consumer has received; after
    `load_state_dict` the next iteration goes on behind them. `waited` is the seconds that the consumer waited
    for data, `rows_received` what it got: `training/throughput.py` shows both.

    Raises ValueError for a rank outside the world, DataError for files that cannot be read, lack a column or
    differ in type.
    """

    def __init__(
        self,
        path: str | Path,
        columns: list[str],
        decode: Callable[[pa.Table], T],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size <= batch_size:
            raise ValueError(
                f"rank {rank} of {world_size} with a global batch of {batch_size} makes no sense"
            )
        self.files, self.columns, self.decode = parquet_files(Path(path)), columns, decode
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self._groups = row_groups(self.files, columns, start, stop)
        self.num_rows = sum(group.num_rows for group in self._groups)
        self.epoch, self.wait_seconds, self.rows_received = 0, 0.0, 0
        self._received = 0  # batches of this epoch that the consumer has
        self._resume_at = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same on every rank."""
        return -(-self.num_rows // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._received}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._resume_at = int(state["epoch"]), int(state["batch"])
        self._received = self._resume_at

    def __iter__(self) -> Iterator[T]:
        first, self._resume_at = self._resume_at, 0
        self._received = first
        source = self._batches(self.epoch, first)
        pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        waiting: deque[Future[tuple[int, T] | None]] = deque()
        try:
            for _ in range(PREFETCH_BATCHES):
                waiting.append(pool.submit(next, source, None))
            while True:
                asked = time.perf_counter()
                made = waiting.popleft().result()
                self.wait_seconds += time.perf_counter() - asked
                if made is None:
                    return
                waiting.append(pool.submit(next, source, None))
                self._received += 1
                self.rows_received += made[0]
                if self._received == len(self):  # a trainer takes that many and never asks for the end
                    self.epoch, self._received = self.epoch + 1, 0
                yield made[1]
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, T]]:
        """Batches `first` and later of this rank, in the stream of `epoch`, each with its number of rows."""
        spans = self._spans(first)
        if not spans:
            return
        parts: list[pa.Table] = []
        todo = iter(spans)
        low, high = next(todo)
        for begin, buffer in self._buffers(epoch, low):
            end = begin + buffer.order.size
            while low < end or high <= end:
                if high > low:
                    parts.append(buffer.take(max(low, begin) - begin, min(high, end) - begin))
                if high > end:
                    break  # the rest of this batch is in the next buffer
                yield high - low, self.decode(pa.concat_tables(parts or [buffer.take(0, 0)]))
                parts = []
                span = next(todo, None)
                if span is None:
                    return
                low, high = span

    def _spans(self, first: int) -> list[tuple[int, int]]:
        """This rank's rows of the stream, batch by batch from `first` on: from, to (exclusive)."""
        spans = []
        for b in range(first, len(self)):
            start, stop = (self.num_rows * i // len(self) for i in (b, b + 1))
            low, high = (start + (stop - start) * r // self.world_size for r in (self.rank, self.rank + 1))
            spans.append((low, high))
        return spans

    def _buffers(self, epoch: int, first: int) -> Iterator[tuple[int, "ShuffleBuffer"]]:
        """(position in the stream, buffer) from the buffer that holds row `first` on; earlier ones unread."""
        order = np.arange(len(self._groups))
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        begin = 0
        for at in range(0, len(order), SHUFFLE_GROUPS):
            groups = [self._groups[g] for g in order[at : at + SHUFFLE_GROUPS]]
            count = sum(group.num_rows for group in groups)
            if begin + count > first:
                rows = np.arange(count)
                if self.shuffle:
                    # Its own generator: a resumed run does not draw for the buffers that it skips.
                    np.random.default_rng([self.seed, epoch, at]).shuffle(rows)
                yield begin, ShuffleBuffer(self._read(groups), rows)
            begin += count

    def _read(self, groups: list[RowGroup]) -> pa.Table:
        """The rows of these groups, in their order."""
        parts = []
        for group in groups:
            path = self.files[group.file_index]
            with open_parquet(path) as file:
                parts.append(
                    read_row_group(file, path, group.group_index, self.columns).slice(
                        group.offset, group.num_rows
                    )
                )
        return pa.concat_tables(parts).combine_chunks()


class ShuffleBuffer(NamedTuple):
    """Rows in memory and the order in which they are taken."""

    table: pa.Table
    order: np.ndarray

    def take(self, start: int, stop: int) -> pa.Table:
        return self.table.take(pa.array(self.order[start:stop]))
