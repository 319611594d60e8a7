"""What is left of a person in files."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq


def traces(folder: Path, needles: Iterable[bytes], besides: Iterable[str] = ()) -> Iterator[str]:
    """Where any file of a folder, at any depth, holds one of the needles; Parquet files also decoded."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name in besides:
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pylist()).encode()
        for needle in needles:
            if needle in content or needle in path.name.encode():
                yield f"{path}: {needle!r}"
