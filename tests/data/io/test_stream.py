"""Streams of Parquet rows: folders, bounded memory, and files that cannot be read."""

import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.io.parquet import RowGroup, count_rows, iter_slices
from data.io.stream import PREFETCH_BATCHES, SHUFFLE_GROUPS, BatchStream, StreamOptions


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    group=st.integers(1, 7),
    start=st.integers(0, 70),
    stop=st.integers(0, 80),
    rows=st.integers(1, 9),
)
def test_a_folder_is_one_file_cut_into_several(
    tmp_path: Path, files: list[int], group: int, start: int, stop: int, rows: int
) -> None:
    folder = tmp_path / "-".join(map(str, [*files, group]))
    folder.mkdir(exist_ok=True)
    begins = np.cumsum([0, *files]).tolist()
    for k, (begin, n) in enumerate(zip(begins, files, strict=False)):
        table = pa.table({"x": pa.array(range(begin, begin + n), pa.int64())})
        pq.write_table(table, folder / f"part-{k}.parquet", row_group_size=group)
    expected = list(range(begins[-1]))[start:stop]
    assert count_rows(folder) == begins[-1]
    slices = [t["x"].to_pylist() for t in iter_slices(folder, None, start, stop, rows)]
    assert [x for values in slices for x in values] == expected
    assert all(0 < len(values) <= rows for values in slices)

    def shuffled() -> list[list[int]]:
        options = StreamOptions(shuffle=True, start=start, stop=stop)
        return list(BatchStream(folder, ["x"], lambda t: t["x"].to_pylist(), rows, options))

    batches = shuffled()
    assert sorted(x for values in batches for x in values) == expected
    sizes = [len(values) for values in batches]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert batches == shuffled()


class CountingStream(BatchStream[pa.Table]):
    """Counts the buffers that are alive whenever one has been read, and the batches decoded so far."""

    def __init__(self, path: Path, batch_size: int) -> None:
        super().__init__(path, ["x"], self.count_decoded, batch_size, StreamOptions(shuffle=True))
        self.buffers: list[weakref.ref[pa.Table]] = []
        self.alive: list[int] = []
        self.decoded = 0

    def count_decoded(self, table: pa.Table) -> pa.Table:
        self.decoded += 1
        return table

    def _read(self, groups: list[RowGroup]) -> pa.Table:
        assert len(groups) <= SHUFFLE_GROUPS
        table = super()._read(groups)
        self.buffers.append(weakref.ref(table))
        self.alive.append(sum(buffer() is not None for buffer in self.buffers))
        return table


@pytest.mark.parametrize("groups", [40, 400])
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, groups: int) -> None:
    """Two buffers of SHUFFLE_GROUPS row groups are held, and the prefetched batches."""
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": np.arange(groups * 64)}), path, row_group_size=64)
    stream = CountingStream(path, 50)
    for received, _ in enumerate(stream, start=1):
        # One batch is with the consumer, and one may be decoded while the others wait.
        assert stream.decoded - received <= PREFETCH_BATCHES
    assert len(stream.buffers) == -(-groups // SHUFFLE_GROUPS)
    assert max(stream.alive) == 2
    assert not any(buffer() for buffer in stream.buffers)


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no Parquet file found"):
        BatchStream(tmp_path / "y.parquet", ["x"], len, 4)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        BatchStream(tmp_path / "x.parquet", ["x"], len, 4, StreamOptions(rank=2, world_size=2))
    with pytest.raises(ValueError, match="a global batch of 1"):
        BatchStream(tmp_path / "x.parquet", ["x"], len, 1, StreamOptions(world_size=2))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"x": np.random.default_rng(0).random(5000)})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # cut short: no footer
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet.*prepare again"):
        BatchStream(path, ["x"], len, 100)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + b"\xff" * 2000 + content[middle + 2000 :])  # the footer is intact
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet.*prepare again"):
        list(BatchStream(path, ["x"], len, 100))


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: x is double, but int64 in .*a\.parquet"):
        BatchStream(tmp_path, ["x"], len, 2)
