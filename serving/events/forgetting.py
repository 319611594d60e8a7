"""Deletes users from the folder of an impression log.

A row belongs to a user if it has the user's `user_id`, or the `request_id` of a slate or click of the user.
The request ids are first collected from all files and kept in PENDING_FILE until no row is left. So a
deletion that is repeated after a kill still finds feedback to slates that are already deleted.
"""

import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import lock_descriptor, remove_abandoned_partials, write_atomically, write_json
from .journal import SUFFIX, Journal, read_journal

PENDING_FILE = ".forgetting.json"  # request ids of a deletion that is not over
POLL_S = 0.2
IDS = ("user_id", "request_id")


@dataclass
class LogDeletion:
    """The result of a deletion.

    Args:
        waiting: journals that still hold rows of the users, and unreadable files; repeat the deletion later.
    """

    rows: int
    files: int
    waiting: list[str]


def delete_logged_users(folder: Path, user_ids: Collection[str], wait_s: float = 0.0) -> LogDeletion:
    """Rewrite the log's files without the users' rows, each in one step.

    Journals of running processes are left alone; journals of killed processes are finished first.

    Args:
        wait_s: seconds to wait for running processes that were asked to finish their journals.

    Raises OSError, and TimeoutError if another deletion still runs after `wait_s` seconds.
    """
    deadline = time.monotonic() + wait_s
    done = LogDeletion(0, 0, [])
    users = pa.array(sorted(user_ids), pa.string())
    with _lock(folder, deadline):
        remove_abandoned_partials(folder, ".*.partial")
        pending = folder / PENDING_FILE
        requests = set(json.loads(pending.read_text())) if pending.is_file() else set()
        while True:
            busy = _finish_journals(folder, users, requests)
            unreadable = _collect_requests(folder, users, requests)
            if requests:
                write_json(pending, sorted(requests))
            rows, files = _rewrite_files(folder, users, requests)
            done.rows, done.files = done.rows + rows, done.files + files
            if not busy or time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        done.waiting = [*busy, *unreadable]
        if not done.waiting:
            pending.unlink(missing_ok=True)
    return done


@contextmanager
def _lock(folder: Path, deadline: float) -> Iterator[None]:
    """Lock the folder, so that only one deletion runs at a time."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while not lock_descriptor(fd):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{folder}: another deletion is running; repeat the command when that deletion has ended"
                )
            time.sleep(POLL_S)
        yield
    finally:
        os.close(fd)


def _finish_journals(folder: Path, users: pa.Array, requests: set[str]) -> list[str]:
    """Finish the journals of killed processes, and read those of running processes.

    Adds the users' request ids in them to `requests`. Returns the names of those with rows of the users.
    """
    for journal in Journal.claim_orphaned(folder):
        journal.finish()
    busy = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        batches = read_journal(path)
        for batch in batches:
            requests |= _requests_of(batch, users)
        if any(_is_theirs(batch, users, requests)[1] for batch in batches):
            busy.append(path.name)
    return busy


def _collect_requests(folder: Path, users: pa.Array, requests: set[str]) -> list[str]:
    """Adds the users' request ids to `requests`. Returns the unreadable files, with the reason."""
    unreadable = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            for batch in pq.ParquetFile(path).iter_batches(columns=list(IDS)):
                requests |= _requests_of(batch, users)
        except (pa.ArrowException, OSError) as error:
            unreadable.append(f"{path.name} cannot be read: {str(error).splitlines()[0]}")
    return unreadable


def _rewrite_files(folder: Path, users: pa.Array, requests: set[str]) -> tuple[int, int]:
    """Rewrite the files that hold rows of the users. Returns the numbers of rows and of files."""
    n_rows = n_files = 0
    for path in sorted(folder.glob("*.parquet")):
        try:
            file = pq.ParquetFile(path)
            n_theirs = sum(_is_theirs(b, users, requests)[1] for b in file.iter_batches(columns=list(IDS)))
        except (pa.ArrowException, OSError):
            continue  # `_collect_requests` names it
        if not n_theirs:
            continue
        with write_atomically(path, sync=True) as partial:
            options = {"compression": "zstd", "write_page_checksum": True}
            with pq.ParquetWriter(partial, file.schema_arrow, **options) as writer:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(table.filter(pc.invert(_is_theirs(table, users, requests)[0])))
        n_rows, n_files = n_rows + n_theirs, n_files + 1
    return n_rows, n_files


def _requests_of(rows: pa.RecordBatch | pa.Table, users: pa.Array) -> set[str]:
    """The request ids of rows that name one of the users."""
    user_id, request_id = (_column(rows, name) for name in IDS)
    return {text for text in request_id.filter(pc.is_in(user_id, users)).to_pylist() if text is not None}


def _is_theirs(
    rows: pa.RecordBatch | pa.Table, users: pa.Array, requests: set[str]
) -> tuple[pa.Array | pa.ChunkedArray, int]:
    """Returns a mask of the rows that belong to the users, and the number of these rows."""
    user_id, request_id = (_column(rows, name) for name in IDS)
    of_requests = pc.is_in(request_id, pa.array(sorted(requests), pa.string()))
    mask = pc.or_(pc.is_in(user_id, users), of_requests)
    return mask, int(pc.sum(mask).as_py() or 0)


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array | pa.ChunkedArray:
    """Returns a column as text; nulls if the file lacks the column."""
    if name not in rows.schema.names:
        return pa.nulls(rows.num_rows, pa.string())
    return rows[name].cast(pa.string())
