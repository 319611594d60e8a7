"""Deletes all data of a user from a store, including the bytes on disk."""

import sqlite3
import time
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol, TypeGuard, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from ..files import remove_abandoned_partials, write_atomically

LOCK_TIMEOUT = 30.0  # seconds that a deletion waits for other writers, and for readers
# Of all tables by user, those of later releases too.
SELECT_USER_TABLES = (
    "SELECT name FROM sqlite_master WHERE type = 'table'"
    " AND EXISTS (SELECT 1 FROM pragma_table_info(sqlite_master.name) WHERE name = 'user')"
)


@runtime_checkable
class ForgettingStore(Protocol):
    """A store that can delete users."""

    def forget(self, user_ids: Sequence[str]) -> int:
        """Delete all data of the users.

        Returns the number of deleted records, 0 for unknown users. No byte of the data remains when the call
        returns.
        Raises the errors of `Store.append`; a retry is safe.
        """


def can_forget(store: object) -> TypeGuard[ForgettingStore]:
    """Whether the store can delete users. An exported `store.arrow` cannot: it is rewritten instead."""
    return isinstance(store, ForgettingStore)


def delete_sqlite_users(path: Path, user_ids: Sequence[str]) -> int:
    """Delete the users' rows from an SQLite file that other processes may have open.

    Deleted bytes stay in the free space of a file, including bytes of earlier merges. So the file is
    rewritten (VACUUM) and its write-ahead log is truncated. Writers wait meanwhile, readers do not.

    Raises sqlite3.Error, and TimeoutError if readers keep the log in use.
    """
    users = [[user_id.encode()] for user_id in user_ids]
    uri = f"{path.absolute().as_uri()}?mode=rw"  # a file that is gone is not created
    with closing(sqlite3.connect(uri, uri=True, timeout=LOCK_TIMEOUT, isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete = ON")
        tables = [name for (name,) in connection.execute(SELECT_USER_TABLES)]
        connection.execute("BEGIN IMMEDIATE")
        n_deleted = 0
        for table in tables:
            n_deleted += connection.executemany(f'DELETE FROM "{table}" WHERE user = ?', users).rowcount
        connection.execute("COMMIT")
        connection.execute("VACUUM")
        deadline = time.monotonic() + LOCK_TIMEOUT
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{path}: other processes still read the log with the deleted rows: repeat the command"
                )
            time.sleep(0.05)
    return n_deleted


def rewrite_arrow_store(path: Path, user_ids: Collection[str]) -> int:
    """Replace a `store.arrow` by one without the users. Returns how many of the users it had.

    If it had none, the file stays as it is. Processes that mapped the file keep the old file until they
    reopen it. Raises OSError, or ArrowInvalid for a file that is not a store.
    """
    remove_abandoned_partials(path.parent, f".{path.name}.*.partial")
    users = pa.array(sorted(user_ids), pa.string())
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(k) for k in range(reader.num_record_batches)]  # views of the file
        is_forgotten = [pc.is_in(batch["user_id"], users) for batch in batches]
        n_forgotten = sum(int(pc.sum(mask).as_py() or 0) for mask in is_forgotten)
        if not n_forgotten:
            return 0
        with (
            write_atomically(path, sync=True) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, reader.schema) as writer,
        ):
            for batch, mask in zip(batches, is_forgotten, strict=True):
                writer.write_batch(batch.filter(pc.invert(mask)))
    return n_forgotten
