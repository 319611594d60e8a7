"""Rows of Parquet files as batches: shuffled, sharded by rank, prefetched, resumable.

    files ─ row groups, shuffled per epoch ─▶ buffers of several groups ─ permuted ─▶ one stream of rows
    stream:   |   global batch 0   |   global batch 1   |   global batch 2   | …
                rank 0   rank 1      rank 0   rank 1      rank 0   rank 1

The stream depends on (seed, epoch) alone. Every rank takes a share of every global batch. So all ranks see
the same number of batches, each row goes to one rank, and a run can resume with another number of ranks. The
sizes of global batches differ by at most one row. No rank's share is empty if there are at least as many rows
as ranks.

Memory holds at most two buffers, the row groups of the second buffer while they are read, and the prefetched
batches. So its size does not depend on the number of rows.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from data.io.parquet import RowGroup, open_parquet, parquet_files, read_row_group, row_groups

SHUFFLE_GROUPS = 16  # row groups that are shuffled together
PREFETCH_BATCHES = 2  # decoded ahead of the consumer, in one thread: Arrow releases Python's lock
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """The rows of the files that a rank reads, and their order."""

    seed: int = 0
    shuffle: bool = False
    rank: int = 0
    world_size: int = 1
    start: int = 0  # first row
    stop: int | None = None  # row after the last


DEFAULT_OPTIONS = StreamOptions()


class BatchStream(Generic[T]):
    """Iterates over the batches of a Parquet file, or of a folder of them.

    An iteration yields one epoch and then sets the next one (`epoch` + 1). `state_dict` counts the batches
    that the consumer has received. After `load_state_dict` the next iteration continues after them.
    `wait_seconds` is the time that the consumer waited for data. `rows_received` is the number of rows that
    it received.

    Args:
        decode: table with `columns` → batch.
        batch_size: the largest number of rows of a global batch, which the ranks share.

    Raises ValueError for a rank outside the world, DataError for files that cannot be read, lack a column or
    differ in type.
    """

    def __init__(
        self,
        path: str | Path,
        columns: list[str],
        decode: Callable[[pa.Table], T],
        batch_size: int,
        options: StreamOptions = DEFAULT_OPTIONS,
    ) -> None:
        if not 0 <= options.rank < options.world_size <= batch_size:
            raise ValueError(
                f"rank {options.rank} of {options.world_size} with a global batch of {batch_size}: expected "
                "0 ≤ rank < world size ≤ batch size"
            )
        self.files, self.columns, self.decode = parquet_files(Path(path)), columns, decode
        self.batch_size, self.options = batch_size, options
        self._groups = row_groups(self.files, columns, options.start, options.stop)
        self.num_rows = sum(group.num_rows for group in self._groups)
        self.epoch, self.wait_seconds, self.rows_received = 0, 0.0, 0
        self._received = 0  # batches of this epoch that the consumer has
        self._resume_at = 0

    def __len__(self) -> int:
        """The number of batches of a whole epoch, which is the same on every rank."""
        return -(-self.num_rows // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self._received}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self._resume_at = int(state["epoch"]), int(state["batch"])
        self._received = self._resume_at

    def __iter__(self) -> Iterator[T]:
        first, self._resume_at = self._resume_at, 0
        self._received = first
        batches = self._batches(self.epoch, first)
        pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        prefetched: deque[Future[tuple[int, T] | None]] = deque()
        try:
            for _ in range(PREFETCH_BATCHES):
                prefetched.append(pool.submit(next, batches, None))
            while True:
                wait_start = time.perf_counter()
                item = prefetched.popleft().result()
                self.wait_seconds += time.perf_counter() - wait_start
                if item is None:
                    return
                prefetched.append(pool.submit(next, batches, None))
                rows, batch = item
                self._received += 1
                self.rows_received += rows
                if self._received == len(self):  # a trainer takes only so many batches
                    self.epoch, self._received = self.epoch + 1, 0
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, epoch: int, first: int) -> Iterator[tuple[int, T]]:
        """Yields (rows, batch) of this rank in the stream of `epoch`, from batch `first` on."""
        spans = iter(self._spans(first))
        span = next(spans, None)
        if span is None:
            return
        low, high = span
        parts: list[pa.Table] = []
        for buffer_start, buffer in self._buffers(epoch, low):
            buffer_stop = buffer_start + buffer.order.size
            while low < buffer_stop or high <= buffer_stop:
                if high > low:
                    part = max(low, buffer_start) - buffer_start, min(high, buffer_stop) - buffer_start
                    parts.append(buffer.take(*part))
                if high > buffer_stop:
                    break  # the other rows of this batch are in the next buffer
                yield high - low, self.decode(pa.concat_tables(parts or [buffer.take(0, 0)]))
                parts = []
                span = next(spans, None)
                if span is None:
                    return
                low, high = span

    def _spans(self, first: int) -> list[tuple[int, int]]:
        """Yields this rank's rows of the stream as (start, stop), batch by batch from batch `first` on."""
        spans = []
        rank, world_size = self.options.rank, self.options.world_size
        for batch in range(first, len(self)):
            start, stop = (self.num_rows * i // len(self) for i in (batch, batch + 1))
            low, high = (start + (stop - start) * r // world_size for r in (rank, rank + 1))
            spans.append((low, high))
        return spans

    def _buffers(self, epoch: int, first_row: int) -> Iterator[tuple[int, "ShuffleBuffer"]]:
        """Yields (position in the stream, buffer), from the buffer with `first_row` on.

        Earlier buffers are not read.
        """
        seed, shuffle = self.options.seed, self.options.shuffle
        group_order = np.arange(len(self._groups))
        if shuffle:
            np.random.default_rng([seed, epoch]).shuffle(group_order)
        buffer_start = 0
        for position in range(0, len(group_order), SHUFFLE_GROUPS):
            groups = [self._groups[g] for g in group_order[position : position + SHUFFLE_GROUPS]]
            count = sum(group.num_rows for group in groups)
            if buffer_start + count > first_row:
                row_order = np.arange(count)
                if shuffle:
                    # A generator per buffer, so that a resumed run draws nothing for skipped buffers.
                    np.random.default_rng([seed, epoch, position]).shuffle(row_order)
                yield buffer_start, ShuffleBuffer(self._read(groups), row_order)
            buffer_start += count

    def _read(self, groups: list[RowGroup]) -> pa.Table:
        """Reads the rows of these groups, in the order of the groups."""
        parts = []
        for group in groups:
            path = self.files[group.file_index]
            with open_parquet(path) as file:
                table = read_row_group(file, path, group.group_index, self.columns)
                parts.append(table.slice(group.offset, group.num_rows))
        return pa.concat_tables(parts).combine_chunks()


class ShuffleBuffer(NamedTuple):
    """Rows in memory and the order in which they are taken."""

    table: pa.Table
    order: np.ndarray

    def take(self, start: int, stop: int) -> pa.Table:
        return self.table.take(pa.array(self.order[start:stop]))
