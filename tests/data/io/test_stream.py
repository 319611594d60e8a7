"""Streams of Parquet rows: folders, bounded memory, and files that cannot be read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.io.parquet import count_rows, iter_slices
from data.io.stream import BatchStream


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
    total = begins[-1]
    assert count_rows(folder) == total
    found = [t["x"].to_pylist() for t in iter_slices(folder, None, start, stop, rows)]
    assert [x for part in found for x in part] == list(range(total))[start:stop]
    assert all(0 < len(part) <= rows for part in found)

    def shuffled() -> list[list[int]]:
        part = {"start": start, "stop": stop}
        return list(BatchStream(folder, ["x"], lambda t: t["x"].to_pylist(), rows, shuffle=True, **part))

    seen = shuffled()
    assert sorted(x for part in seen for x in part) == list(range(total))[start:stop]
    sizes = [len(part) for part in seen]
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert seen == shuffled()


def test_memory_is_one_buffer(tmp_path: Path) -> None:
    """Ten times the rows, no more of Arrow's memory: 16 row groups are held, and the batches ahead."""
    peaks = []
    for groups in (40, 400):
        path = tmp_path / f"{groups}.parquet"
        pq.write_table(pa.table({"x": np.arange(groups * 4096)}), path, row_group_size=4096)
        before, peak = pa.total_allocated_bytes(), 0
        for _ in BatchStream(path, ["x"], lambda t: t["x"].to_numpy(), 512, shuffle=True):
            peak = max(peak, pa.total_allocated_bytes() - before)
        peaks.append(peak)
    assert peaks[1] <= 1.1 * peaks[0]


def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no Parquet file is there"):
        BatchStream(tmp_path / "y.parquet", ["x"], len, 4)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        BatchStream(tmp_path / "x.parquet", ["x"], len, 4, rank=2, world_size=2)
    with pytest.raises(ValueError, match="a global batch of 1"):
        BatchStream(tmp_path / "x.parquet", ["x"], len, 1, rank=0, world_size=2)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"x": np.random.default_rng(0).random(5000)})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", write_page_checksum=True)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # cut short: no footer
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet.*prepare again"):
        BatchStream(path, ["x"], len, 100)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 2000 + whole[middle + 2000 :])  # the footer is whole
    with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet.*prepare again"):
        list(BatchStream(path, ["x"], len, 100))


def test_files_of_a_folder_must_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: x is double, but int64 in .*a\.parquet"):
        BatchStream(tmp_path, ["x"], len, 2)
