import os
import time
from pathlib import Path

import pyarrow as pa

from data.io.table_copies import MAX_SCRATCH_AGE_S, write_copy


def test_folders_of_killed_copies_are_removed_after_a_day(tmp_path: Path) -> None:
    old, young = tmp_path / ".copy-old", tmp_path / ".copy-young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "unsorted.parquet").write_bytes(b"x")
    long_ago = time.time() - MAX_SCRATCH_AGE_S - 60
    os.utime(old, (long_ago, long_ago))
    rows = pa.table({"item_id": ["b", "a"]})
    copy = write_copy(rows.to_reader(), tmp_path, "items", ["item_id"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([young.name, copy.name])
