"""The live state: changes while the service runs, such as rules and stock.

All workers and hosts share it.

    topic      key                        value
    rules      name of a rule             JSON
    items      field and item id          JSON
    forgotten  random text                JSON: hashes of users' ids

Every write gives its entry the next sequence number, so a reader asks only for newer entries. The state is an
SQLite file (for processes of one machine) or lives on a Valkey or Redis server.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, Protocol

TIMEOUT = 5.0  # seconds that a read or a write waits
# Removed entries stay as NULL, so that readers learn of the removal.
CREATE_TABLES = (
    "CREATE TABLE IF NOT EXISTS live_state"
    " (topic TEXT, key TEXT, value BLOB, sequence INTEGER, PRIMARY KEY (topic, key)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS live_state_sequence ON live_state (sequence)",
    "CREATE TABLE IF NOT EXISTS live_state_generation (generation TEXT)",
)
SELECT_GENERATION = "SELECT generation FROM live_state_generation"
SELECT_LAST = "SELECT coalesce(max(sequence), 0) FROM live_state"
UPSERT = (
    "INSERT INTO live_state VALUES (?, ?, ?, ?)"
    " ON CONFLICT DO UPDATE SET value = excluded.value, sequence = excluded.sequence"
)
SELECT_NEW = "SELECT topic, key, value, sequence FROM live_state WHERE sequence > ? ORDER BY sequence"


class Change(NamedTuple):
    """A changed entry; without a value, the entry was removed."""

    topic: str
    key: str
    value: bytes | None


class Cursor(NamedTuple):
    """The position of a reader."""

    generation: str  # of the state; another one means that the file or the server was replaced
    sequence: int


START = Cursor("", 0)


class Snapshot(NamedTuple):
    """The latest change of each key after a cursor, in the order of the writes."""

    changes: list[Change]
    cursor: Cursor
    is_complete: bool  # these are all entries: the reader forgets those that it has


class LiveState(Protocol):
    """Entries by topic and key. Safe to share between threads.

    Both methods raise OSError (TimeoutError and ConnectionError among them) while the state is unavailable.
    """

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes or none. The changes are stored when the call returns."""

    def read(self, after: Cursor) -> Snapshot:
        """The changes written after the cursor `after`."""


class SQLiteLiveState:
    """Live state in an SQLite file. Every call opens the file, so that a replaced file is noticed.

    Args:
        create: whether a write creates a missing file; otherwise a missing file is an error. A store's file
            must not be created here, because it would lack the histories.
    """

    def __init__(self, path: Path, create: bool = True) -> None:
        self.path, self.create = path, create

    def write(self, changes: Sequence[Change]) -> None:
        """Write all changes in one transaction."""
        with self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for statement in CREATE_TABLES:
                connection.execute(statement)
            if connection.execute(SELECT_GENERATION).fetchone() is None:
                connection.execute("INSERT INTO live_state_generation VALUES (?)", [token_hex(8)])
            (last,) = connection.execute(SELECT_LAST).fetchone()
            rows = ((*change, sequence) for sequence, change in enumerate(changes, last + 1))
            connection.executemany(UPSERT, rows)
            connection.execute("COMMIT")

    def read(self, after: Cursor) -> Snapshot:
        """Returns the changes written after `after`.

        There are none while the file is missing, if a write would create it.
        """
        if self.create and not self.path.is_file():
            return Snapshot([], START, is_complete=after != START)
        with self._connection() as connection:
            connection.execute("BEGIN")
            table = "SELECT 1 FROM sqlite_master WHERE name = 'live_state_generation'"
            if not connection.execute(table).fetchone():
                return Snapshot([], START, is_complete=after != START)
            (generation,) = connection.execute(SELECT_GENERATION).fetchone()
            (last,) = connection.execute(SELECT_LAST).fetchone()
            # An earlier copy of the file is another one: its next numbers would be taken for read ones.
            is_same = generation == after.generation and last >= after.sequence
            rows = connection.execute(SELECT_NEW, [after.sequence if is_same else 0]).fetchall()
        return Snapshot([Change(*row[:3]) for row in rows], Cursor(generation, last), not is_same)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if not self.create and not self.path.is_file():
            raise FileNotFoundError(f"live state {self.path}: the file is gone")
        try:
            connection = sqlite3.connect(self.path, timeout=TIMEOUT, isolation_level=None)
            try:
                connection.execute("PRAGMA secure_delete = ON")  # no old value stays in the file
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise OSError(f"live state {self.path}: {error}") from error


def read_entries(state: LiveState, topic: str) -> dict[str, bytes]:
    """All current entries of a topic. Raises as `LiveState.read`."""
    changes = state.read(START).changes
    return {c.key: c.value for c in changes if c.topic == topic and c.value is not None}
