"""Connections to the file of an embedded store, which may be removed or replaced while it is open.

A connection keeps using a removed file, so its writes would be lost. Therefore the file at the path is
compared with the open file (device and inode): before and after every transaction, and once a second by
readers. A new file is opened when it exists; until then every call raises FileNotFoundError.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import lock_file
from .quarantine import CorruptHistoryError

CHECK_INTERVAL_S = 1.0  # between two comparisons by readers
FileIdentity = tuple[int, int] | None  # device and inode; None where there is no file


class Connection(sqlite3.Connection):
    """A connection, and the identity of the file to which it is connected."""

    identity: FileIdentity = None


class SQLiteFile:
    """Connections of one process, shared by its threads.

    Args:
        path: path of the file.
        prepare: called with a connection to a file that is new to this process; raises ValueError for a file
            that is not a store.
        timeout: seconds that a new connection waits for a lock.
        synchronous: SQLite's setting, NORMAL or FULL.
    """

    def __init__(
        self, path: Path, prepare: Callable[[sqlite3.Connection], None], timeout: float, synchronous: str
    ) -> None:
        self.path, self.closed = path, False
        self.idle: list[Connection] = []
        self.inherited: list[Connection] = []  # from before a fork
        self._prepare, self._timeout, self._synchronous = prepare, timeout, synchronous
        self._write_lock = threading.Lock()  # fair between threads, as the file's lock is not
        self._reopen_lock = threading.Lock()
        self._pid = os.getpid()
        self._identity: FileIdentity = None  # of the file that `idle` is connected to
        self._real_path = path
        self._wal_identity: FileIdentity = None
        self._next_check = 0.0  # time.monotonic

    def create(self) -> None:
        """Open the file, or create it; several processes may do so at once. Raises as the store does."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                with self.translate_errors():
                    self.idle.append(self._connect("rwc"))
                return
            except TimeoutError:
                # SQLite does not wait where that could be a deadlock.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def check(self) -> None:
        """Reopen the file if a different file is now at the path. Raises FileNotFoundError if none is."""
        self._check_open()
        self._reset_after_fork()
        self._next_check = time.monotonic() + CHECK_INTERVAL_S
        identity = _file_identity(self.path)
        if identity == self._identity is not None:
            return
        with self._reopen_lock, self.translate_errors():
            if _file_identity(self.path) != self._identity:
                self._leave_file()
            if _file_identity(self.path) is None:
                raise FileNotFoundError(
                    f"{self.path}: the event store was removed while it was open. To do: put it back; it is "
                    "opened within a second"
                )
            if self._identity is None:
                self.idle.append(self._connect("rw"))

    @contextmanager
    def transaction(self, timeout: float) -> Iterator[Connection]:
        """A connection in a transaction, which is committed to the file at the path when the block ends."""
        self._reset_after_fork()
        deadline, lock = time.monotonic() + timeout, self._write_lock
        if not lock.acquire(timeout=timeout):
            raise TimeoutError(f"{self.path}: other threads write for more than {timeout} s")
        try:
            self.check()
            with self.connection(max(deadline - time.monotonic(), 0.001)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
                if _file_identity(self.path) != connection.identity:
                    raise FileNotFoundError(f"{self.path}: the event store was removed during a write")
                self._wal_identity = _file_identity(_beside(self._real_path, "-wal"))
        finally:
            lock.release()

    @contextmanager
    def connection(self, timeout: float) -> Iterator[Connection]:
        """An idle connection, or a new one. A connection that failed is closed, which also rolls back."""
        self._check_open()
        self._reset_after_fork()
        if self._identity is None or time.monotonic() >= self._next_check:
            self.check()
        with self.translate_errors():
            connection = self._pop_idle()
            if connection is None:
                self.check()
                connection = self._connect("rw")
            try:
                connection.execute(f"PRAGMA busy_timeout = {max(1, int(1e3 * timeout))}")
                yield connection
            except BaseException:
                connection.close()
                raise
            self.idle.append(connection)
            if self.closed:  # in the meantime
                self.close()

    def close(self) -> None:
        """Close the idle connections; a connection in use closes when its call ends."""
        self.closed = True
        while self.idle:
            self.idle.pop().close()

    def _pop_idle(self) -> Connection | None:
        """An idle connection to the open file. Returned connections to another file are closed."""
        while self.idle:
            try:
                connection = self.idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.identity == self._identity:
                return connection
            connection.close()
        return None

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path}: the store is closed")

    def _reset_after_fork(self) -> None:
        """Start anew in a forked process: it must neither use nor close SQLite's connections."""
        if self._pid != os.getpid():
            self.inherited += self.idle
            self.idle, self._pid = [], os.getpid()
            self._write_lock, self._reopen_lock = threading.Lock(), threading.Lock()

    def _connect(self, mode: str) -> Connection:
        """A connection to the file at the path, which is checked if it is new to this process."""
        before = _file_identity(self.path)
        # isolation_level=None: transactions begin at BEGIN only.
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}", uri=True, timeout=self._timeout,
            isolation_level=None, check_same_thread=False, factory=Connection,
        )  # fmt: skip
        try:
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            if before != self._identity or before is None:
                self._prepare(connection)
            after = _file_identity(self.path)
            if after is None or (before is not None and after != before):
                raise FileNotFoundError(
                    f"{self.path}: the event store was removed or replaced while it was opened"
                )
        except BaseException:
            connection.close()
            raise
        connection.identity = self._identity = after
        self._real_path = self.path.resolve()  # SQLite puts the log next to the file that a link names
        self._wal_identity = _file_identity(_beside(self._real_path, "-wal"))
        self._next_check = time.monotonic() + CHECK_INTERVAL_S
        return connection

    def _leave_file(self) -> None:
        """Close the connections to a file that is no longer at the path.

        The file's write-ahead log is still there, and SQLite would apply it to the next file at the path. So
        the log is written into the file that it belongs to, and removed; if that fails, the log is renamed.
        If the path is a link that now names another file, the old file and its log stay where they are.
        """
        idle, self.idle = self.idle, []
        identity, self._identity = self._identity, None
        wal_path = _beside(self._real_path, "-wal")
        is_left_behind = identity is not None and _file_identity(self._real_path) != identity
        with lock_file(self.path.with_name(f".{self.path.name}.lock")):  # another process finds another log
            if is_left_behind and _file_identity(wal_path) == self._wal_identity is not None:
                if any(map(_checkpoint, idle[:1])):
                    wal_path.unlink()
                else:
                    wal_path.rename(wal_path.with_name(f"{wal_path.name}.{time.time_ns()}"))
                _beside(self._real_path, "-shm").unlink(missing_ok=True)
        for connection in idle:
            connection.close()

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise SQLite's errors as those that Store documents."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise TimeoutError(f"{self.path}: {error}") from error
            if code == sqlite3.SQLITE_CORRUPT:  # of a page: users of other pages are not affected
                raise CorruptHistoryError(
                    f"{self.path} is not an event store, or damaged: {error}"
                ) from error
            if code == sqlite3.SQLITE_NOTADB:
                raise ValueError(f"{self.path} is not an event store, or damaged: {error}") from error
            raise OSError(f"{self.path}: {error}") from error


def _checkpoint(connection: sqlite3.Connection) -> bool:
    """Write the whole write-ahead log into the file that it belongs to. Returns whether this succeeded."""
    try:
        is_busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error:
        return False
    return not is_busy


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def _file_identity(path: Path) -> FileIdentity:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
