"""User histories in one SQLite file, for one machine. The store needs no installation.

Any number of threads and processes may share the file, on a local disk (the write-ahead log needs shared
memory, which network file systems lack). Readers never wait for a writer; writers take turns.

When a process dies, even by kill -9, nothing is lost that was acknowledged. A power cut or a crash of the
operating system loses only the appends since the log was last flushed (about 4 MB). With `durable`, every
append flushes the disk, and none is lost.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..checkout import Event
from .base import (
    EMPTY_HISTORY,
    MAX_EVENTS,
    READ_TIMEOUT,
    WRITE_TIMEOUT,
    UserHistory,
    history_from_events,
)
from .chunks import (
    MAX_CHUNKS,
    merge,
    pack,
    pack_in_batches,
    pack_order,
    part_readable,
    unpack,
    unpack_order,
)
from .forgetting import delete_sqlite_users
from .impressions import MAX_SLATES, ShownSlate, pack_slate, part_readable_slates, unpack_slates
from .orders import OrderChange
from .quarantine import CorruptHistoryError, DamagedUser
from .sqlite_file import SQLiteFile

# In the file's header, so that no other database passes for a store.
APPLICATION_ID, SCHEMA_VERSION = 0x53585431, 1
# A user's chunks lie side by side (WITHOUT ROWID), so reading them is one walk down the tree.
CREATE_TABLE = (
    "CREATE TABLE chunks (user BLOB, place INTEGER, chunk BLOB, PRIMARY KEY (user, place)) WITHOUT ROWID"
)
# Files of earlier releases lack them, and earlier releases ignore them: the layout's version stays.
CREATE_FURTHER_TABLES = (
    "CREATE TABLE IF NOT EXISTS impressions"
    " (user BLOB, place INTEGER, slate BLOB, PRIMARY KEY (user, place)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS quarantine (user BLOB, source TEXT, place INTEGER, record BLOB)",
)
# Without those of live state (live_state.py), which may come first.
COUNT_TABLES = "SELECT count(*) FROM sqlite_master WHERE tbl_name NOT LIKE 'live_state%'"
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
SELECT_USERS = "SELECT user FROM {} WHERE user > ? ORDER BY user LIMIT 1"  # of one table after the other
RECORDS = {"chunks": ("chunk", part_readable), "impressions": ("slate", part_readable_slates)}  # by table


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
        if not self.path.parent.is_dir() or not (create or self.path.is_file()):
            raise FileNotFoundError(f"{path}: no such event store")
        self.file = SQLiteFile(self.path, self._prepare, write_timeout, "FULL" if durable else "NORMAL")
        self.file.create()

    def get(self, user_id: str) -> UserHistory:
        """The history of a user."""
        user = user_id.encode()
        with self.file.connection(self.read_timeout) as connection:
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
        """Store the events in one transaction."""
        chunk = pack(history_from_events(events, profile), self.max_events, idempotency_key)
        with self._transaction() as connection:
            self._append_chunk(connection, user_id, chunk)

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Append many histories, BULK_BATCH_USERS in a transaction, for which other writers wait."""
        for batch in pack_in_batches(users, self.max_events):
            with self._transaction() as connection:
                for user_id, chunk in batch:
                    self._append_chunk(connection, user_id, chunk)

    def record_order(self, user_id: str, order: OrderChange) -> None:
        """Store an order's lines in one transaction."""
        chunk = pack_order(order, self.max_events)
        with self._transaction() as connection:
            self._append_chunk(connection, user_id, chunk)

    def change_order(self, user_id: str, change: OrderChange) -> UserHistory | None:
        """Store a cancellation or a return in a transaction, which reads the user's chunks."""
        chunk, user = pack_order(change, self.max_events), user_id.encode()
        with self._transaction() as connection:
            chunks = [stored for (stored,) in connection.execute(SELECT_CHUNKS, [user])]
            with self._add_user_to_errors(user_id):
                if not chunks or unpack_order(chunks, change.order_id, self.max_events) is None:
                    return None
                remaining = unpack_order([*chunks, chunk], change.order_id, self.max_events)
            self._append_chunk(connection, user_id, chunk)
        return remaining

    def append_impressions(self, user_id: str, slate: ShownSlate) -> None:
        """Store the slate that the user was shown, in a separate transaction."""
        if not user_id:
            raise ValueError("user_id is empty")
        parameters = {"user": user_id.encode(), "slate": pack_slate(slate), "kept": MAX_SLATES}
        with self._transaction() as connection:
            connection.execute(INSERT_SLATE, parameters)
            connection.execute(DELETE_OLD_SLATES, parameters)

    def set_aside(self, user_id: str) -> int:
        """Move a user's damaged records to the table `quarantine`, in a transaction."""
        with self._transaction() as connection:
            return self._set_aside(connection, user_id.encode())

    def damaged_users(self) -> Iterator[DamagedUser]:
        """All users with damaged or quarantined records."""
        with self.file.connection(self.write_timeout) as connection:
            count = "SELECT count(*) FROM quarantine WHERE user = ?"
            for user in _all_users(connection):
                n_damaged = sum(len(damaged) for _, damaged in _damaged_records(connection, user))
                n_quarantined = connection.execute(count, [user]).fetchone()[0]
                if n_damaged or n_quarantined:
                    yield DamagedUser(user.decode(errors="replace"), n_damaged, n_quarantined)

    def clear_quarantine(self, user_id: str) -> int:
        """Delete a user's quarantined records."""
        with self._transaction() as connection:
            return connection.execute("DELETE FROM quarantine WHERE user = ?", [user_id.encode()]).rowcount

    def forget(self, user_ids: Sequence[str]) -> int:
        """Delete users and rewrite the file. Other writers wait until the file is rewritten."""
        with self.file.translate_errors():
            return delete_sqlite_users(self.path, user_ids)

    def check(self) -> None:
        """Reopen the file if it was replaced. Raises OSError if it was removed. Takes microseconds."""
        self.file.check()

    def close(self) -> None:
        """Close the idle connections; a connection in use closes when its call ends."""
        self.file.close()

    def _append_chunk(self, connection: sqlite3.Connection, user_id: str, chunk: bytes) -> None:
        if not user_id:
            raise ValueError("user_id is empty")
        user = user_id.encode()
        first, last = connection.execute(SELECT_BOUNDS, [user]).fetchone()
        place = 0 if last is None else last + 1
        connection.execute(INSERT_CHUNK, [user, place, chunk])
        if last is not None and place - first >= MAX_CHUNKS:
            self._merge(connection, user, place)

    def _merge(self, connection: sqlite3.Connection, user: bytes, place: int) -> None:
        """Replace all chunks of a user by one at `place`."""
        chunks = [chunk for (chunk,) in connection.execute(SELECT_CHUNKS, [user])]
        try:
            merged = merge(chunks, self.max_events)
        except CorruptHistoryError:
            self._set_aside(connection, user)
            merged = merge(part_readable(chunks).readable, self.max_events)
        connection.execute("DELETE FROM chunks WHERE user = ?", [user])
        connection.execute(INSERT_CHUNK, [user, place, merged])

    def _set_aside(self, connection: sqlite3.Connection, user: bytes) -> int:
        """Move a user's damaged records within a transaction. Returns their number."""
        n_moved = 0
        for table, places in _damaged_records(connection, user):
            column = RECORDS[table][0]
            for place in places:
                connection.execute(
                    f"INSERT INTO quarantine SELECT user, ?, place, {column} FROM {table}"
                    " WHERE user = ? AND place = ?",
                    [table, user, place],
                )
                connection.execute(f"DELETE FROM {table} WHERE user = ? AND place = ?", [user, place])
                n_moved += 1
        return n_moved

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self.file.transaction(self.write_timeout) as connection:
            yield connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create the tables in a new file, or check that the file holds them."""
        if connection.execute(COUNT_TABLES).fetchone() == (0,):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute(COUNT_TABLES).fetchone() == (0,):
                for create in (CREATE_TABLE, *CREATE_FURTHER_TABLES):
                    connection.execute(create)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        header = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        ]
        if header != [APPLICATION_ID, SCHEMA_VERSION]:
            raise ValueError(f"{self.path} is a database, but no event store of layout {SCHEMA_VERSION}")
        connection.execute(SELECT_BOUNDS, [b""]).fetchone()
        count = "SELECT count(*) FROM sqlite_master WHERE name IN ('impressions', 'quarantine')"
        if connection.execute(count).fetchone() != (len(CREATE_FURTHER_TABLES),):
            for create in CREATE_FURTHER_TABLES:
                connection.execute(create)

    @contextmanager
    def _add_user_to_errors(self, user_id: str) -> Iterator[None]:
        try:
            yield
        except CorruptHistoryError as error:
            raise CorruptHistoryError(f"{self.path}: user {user_id!r}: {error}") from error


def _all_users(connection: sqlite3.Connection) -> Iterator[bytes]:
    """The users of all tables in the order of their ids; no statement stays open."""
    heads: dict[str, bytes] = {}
    after = dict.fromkeys((*RECORDS, "quarantine"), b"")
    while True:
        for table, user in after.items():
            row = (
                None if table in heads else connection.execute(SELECT_USERS.format(table), [user]).fetchone()
            )
            if row is not None:
                heads[table] = row[0]
        if not heads:
            return
        user = min(heads.values())
        for table in [table for table, head in heads.items() if head == user]:
            after[table] = heads.pop(table)
        yield user


def _damaged_records(connection: sqlite3.Connection, user: bytes) -> Iterator[tuple[str, list[int]]]:
    """Returns table → the places of the user's unreadable records."""
    for table, (column, part) in RECORDS.items():
        rows = connection.execute(f"SELECT place, {column} FROM {table} WHERE user = ?", [user]).fetchall()
        yield table, [place for place, record in rows if part([record]).damaged]
