"""Copies of database rows: sorted Parquet files, named by a hash of their content.

The same rows give the same bytes, in any order of arrival. Preparation hashes the bytes, so unchanged rows
are not prepared again.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data.io import engine

BATCH_ROWS = 50_000  # of a row group
KEPT_COPIES = 2  # another process may still read the previous copy
SCRATCH_PREFIX = ".copy-"
MAX_SCRATCH_AGE_S = 86_400  # an older folder was left by a killed process


def write_copy(rows: pa.RecordBatchReader, folder: Path, name: str, sort_first: Sequence[str]) -> Path:
    """Write the copy of these rows, `<name>-<hash>.parquet` in `folder`. An equal copy that exists is kept.

    Only a few batches are in memory; the sort spills into `folder`. Raises ValueError for two columns with
    the same name.

    Args:
        sort_first: columns to sort by before all others, where the rows have them.
    """
    columns = rows.schema.names
    repeated = [column for column, count in Counter(c.lower() for c in columns).items() if count > 1]
    if repeated:
        raise ValueError(f"two columns are named {repeated[0]}: rename one with AS in a SELECT")
    order = [c for c in sort_first if c in columns]
    order += [c for c in columns if c not in order]
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_scratch(folder)
    with tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=folder) as scratch:
        unsorted, ordered = Path(scratch) / "unsorted.parquet", Path(scratch) / "sorted.parquet"
        _write(rows.schema, rows, unsorted)
        with engine.connect({}, Path(scratch) / "spill") as con:
            keys = ", ".join(f'"{c.replace(chr(34), chr(34) * 2)}"' for c in order)
            # A relation streams. The result of `execute` would be in memory as a whole.
            relation = con.con.from_parquet(str(unsorted)).order(keys)
            batches = relation.to_arrow_reader(BATCH_ROWS)
            _write(batches.schema, batches, ordered)
        with ordered.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=12)).hexdigest()
        target = folder / f"{name}-{digest}.parquet"
        if target.is_file():
            os.utime(target)  # this copy is the newest again
        else:
            ordered.replace(target)
    copies = sorted(folder.glob(f"{name}-*.parquet"), key=lambda copy: copy.stat().st_mtime_ns)
    for copy in copies[:-KEPT_COPIES]:
        copy.unlink(missing_ok=True)
    return target


def _remove_abandoned_scratch(folder: Path) -> None:
    for scratch in folder.glob(f"{SCRATCH_PREFIX}*"):
        if scratch.stat().st_mtime < time.time() - MAX_SCRATCH_AGE_S:
            shutil.rmtree(scratch, ignore_errors=True)


def _write(schema: pa.Schema, batches: Iterable[pa.RecordBatch], file: Path) -> None:
    """Write batches in row groups of BATCH_ROWS, however many rows each batch has."""
    waiting = pa.Table.from_batches([], schema)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
            while waiting.num_rows >= BATCH_ROWS:
                writer.write_table(waiting.slice(0, BATCH_ROWS).combine_chunks())
                waiting = waiting.slice(BATCH_ROWS)
        if waiting.num_rows:
            writer.write_table(waiting.combine_chunks())
