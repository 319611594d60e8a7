"""User histories in one SQLite file: nothing to install, for one machine.

Any number of threads and processes may share the file, on a local disk (the write-ahead log needs shared
memory, which network file systems lack). Readers never wait for a writer; writers take turns.

Losses: the death of a process, kill -9 included, loses nothing that was acknowledged. A power cut or a crash
of the operating system loses the appends since the log was last flushed (about 4 MB), and nothing else; with
`durable`, every append flushes the disk and none is lost.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..checkout import Event
from .base import EMPTY_HISTORY, MAX_EVENTS, READ_TIMEOUT, WRITE_TIMEOUT, UserHistory, history_from_events
from .chunks import MAX_CHUNKS, merge, pack, pack_in_batches, unpack
from .impressions import MAX_SLATES, ShownSlate, pack_slate, unpack_slates

# In the file's header, so that no other database passes for a store.
APPLICATION_ID, SCHEMA_VERSION = 0x53585431, 1
# A user's chunks lie side by side (WITHOUT ROWID), so reading them is one walk down the tree.
CREATE_TABLE = (
    "CREATE TABLE chunks (user BLOB, place INTEGER, chunk BLOB, PRIMARY KEY (user, place)) WITHOUT ROWID"
)
# Files of earlier releases lack it, and earlier releases ignore it: the layout's version stays.
CREATE_IMPRESSIONS = (
    "CREATE TABLE IF NOT EXISTS impressions"
    " (user BLOB, place INTEGER, slate BLOB, PRIMARY KEY (user, place)) WITHOUT ROWID"
)
SELECT_CHUNKS = "SELECT chunk FROM chunks WHERE user = ? ORDER BY place"
SELECT_BOUNDS = "SELECT min(place), max(place) FROM chunks WHERE user = ?"
INSERT_CHUNK = "INSERT INTO chunks VALUES (?, ?, ?)"
SELECT_SLATES = "SELECT slate FROM impressions WHERE user = ? ORDER BY place"
INSERT_SLATE = (
    "INSERT INTO impressions"
    " SELECT :user, coalesce(max(place), 0) + 1, :slate FROM impressions WHERE user = :user"
)
DELETE_OLD_SLATES = (
    "DELETE FROM impressions WHERE user = :user"
    " AND place <= (SELECT max(place) FROM impressions WHERE user = :user) - :kept"
)


class EmbeddedStore:
    """A Store (serving/stores/base.py) in the file `path`. Raises as `open_store` does."""

    def __init__(
        self,
        path: str | Path,
        max_events: int = MAX_EVENTS,
        read_timeout: float = READ_TIMEOUT,
        write_timeout: float = WRITE_TIMEOUT,
        durable: bool = False,
        create: bool = True,
    ) -> None:
        self.path = Path(path)
        self.max_events = max_events
        self.read_timeout, self.write_timeout = read_timeout, write_timeout
        self._synchronous = "FULL" if durable else "NORMAL"
        self._write_lock = threading.Lock()  # fair between threads, as the file's lock is not
        self._closed = False
        self._pid = os.getpid()
        self._idle: list[sqlite3.Connection] = []
        self._inherited: list[sqlite3.Connection] = []
        if not self.path.parent.is_dir() or not (create or self.path.is_file()):
            raise FileNotFoundError(f"{path}: no such event store")
        self._prepare()

    def get(self, user_id: str) -> UserHistory:
        """The history of a user."""
        user = user_id.encode()
        with self._connection(self.read_timeout) as connection:
            chunks = [chunk for (chunk,) in connection.execute(SELECT_CHUNKS, [user])]
            slates = [slate for (slate,) in connection.execute(SELECT_SLATES, [user])]
        with self._add_user_to_errors(user_id):
            history = unpack(chunks, self.max_events) if chunks else EMPTY_HISTORY
            return replace(history, impressions=unpack_slates(slates)) if slates else history

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Store the events in a transaction of their own."""
        chunk = pack(history_from_events(events, profile), self.max_events, idempotency_key)
        with self._transaction() as connection:
            self._append_chunk(connection, user_id, chunk)

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Append many histories, BULK_BATCH_USERS in a transaction: other writers wait for it."""
        for batch in pack_in_batches(users, self.max_events):
            with self._transaction() as connection:
                for user_id, chunk in batch:
                    self._append_chunk(connection, user_id, chunk)

    def append_impressions(self, user_id: str, slate: ShownSlate) -> None:
        """Store what the user was shown, in a transaction of its own."""
        if not user_id:
            raise ValueError("user_id is empty")
        parameters = {"user": user_id.encode(), "slate": pack_slate(slate), "kept": MAX_SLATES}
        with self._transaction() as connection:
            connection.execute(INSERT_SLATE, parameters)
            connection.execute(DELETE_OLD_SLATES, parameters)

    def close(self) -> None:
        """Close the idle connections; one in use closes when its call ends."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _append_chunk(self, connection: sqlite3.Connection, user_id: str, chunk: bytes) -> None:
        if not user_id:
            raise ValueError("user_id is empty")
        user = user_id.encode()
        first, last = connection.execute(SELECT_BOUNDS, [user]).fetchone()
        place = 0 if last is None else last + 1
        connection.execute(INSERT_CHUNK, [user, place, chunk])
        if last is not None and place - first >= MAX_CHUNKS:
            chunks = [chunk for (chunk,) in connection.execute(SELECT_CHUNKS, [user])]
            with self._add_user_to_errors(user_id):
                merged = merge(chunks, self.max_events)
            connection.execute("DELETE FROM chunks WHERE user = ?", [user])
            connection.execute(INSERT_CHUNK, [user, place, merged])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._reset_after_fork()
        deadline, lock = time.monotonic() + self.write_timeout, self._write_lock
        if not lock.acquire(timeout=self.write_timeout):
            raise TimeoutError(f"{self.path}: other threads write for more than {self.write_timeout} s")
        try:
            with self._connection(max(deadline - time.monotonic(), 0.001)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
        finally:
            lock.release()

    @contextmanager
    def _connection(self, timeout: float) -> Iterator[sqlite3.Connection]:
        """An idle connection, or a new one. A connection that failed is closed, which also rolls back."""
        if self._closed:
            raise ValueError(f"{self.path}: the store is closed")
        self._reset_after_fork()
        with self._translate_errors():
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connect()
            try:
                connection.execute(f"PRAGMA busy_timeout = {max(1, int(1e3 * timeout))}")
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            if self._closed:  # in the meantime
                self.close()

    def _reset_after_fork(self) -> None:
        """Start anew in a forked process: it must neither use nor close SQLite's connections."""
        if self._pid != os.getpid():
            self._inherited += self._idle
            self._idle, self._write_lock, self._pid = [], threading.Lock(), os.getpid()

    def _connect(self) -> sqlite3.Connection:
        # isolation_level=None: transactions begin at BEGIN only.
        connection = sqlite3.connect(
            self.path, timeout=self.write_timeout, isolation_level=None, check_same_thread=False
        )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        return connection

    def _prepare(self) -> None:
        """Create the table in a new file, or check that the file holds it."""
        deadline = time.monotonic() + self.write_timeout
        while True:
            try:
                with self._connection(self.write_timeout) as connection:
                    self._create_or_check_schema(connection)
                return
            except TimeoutError:
                # Several processes create it at once. SQLite does not wait where that could be a deadlock.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _create_or_check_schema(self, connection: sqlite3.Connection) -> None:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                connection.execute(CREATE_TABLE)
                connection.execute(CREATE_IMPRESSIONS)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        header = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        ]
        if header != [APPLICATION_ID, SCHEMA_VERSION]:
            raise ValueError(f"{self.path} is a database, but no event store of layout {SCHEMA_VERSION}")
        connection.execute(SELECT_BOUNDS, [b""]).fetchone()
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'impressions'").fetchone():
            connection.execute(CREATE_IMPRESSIONS)

    @contextmanager
    def _add_user_to_errors(self, user_id: str) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path}: user {user_id!r}: {error}") from error

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as those that Store documents."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise TimeoutError(f"{self.path}: {error}") from error
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise ValueError(f"{self.path} is no event store, or damaged: {error}") from error
            raise OSError(f"{self.path}: {error}") from error
