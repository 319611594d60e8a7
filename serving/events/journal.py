"""A journal: an append-only file of rows that later becomes a Parquet file. A crash can only cut its end.

    20261125T194412-4711-9f3a01c2.journal   schema, batch, batch, …; each with its length and CRC-32
    20261125T194412-4711-9f3a01c2.parquet   the same rows, once the journal is finished

A Parquet file is unreadable before its footer is written, so a killed process would lose all rows. Rows
appended to a journal are held by the operating system and survive the process. If a journal is cut off within
a batch, the batches before it are kept.

A lock (flock) marks the owner of a journal and ends with its process. A journal without an owner is orphaned,
and any process may finish it. Processes of several machines may share a folder only where its file system
shares flock between them.
"""

import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import flush_to_disk, lock_descriptor

SUFFIX = ".journal"
FRAME_HEADER = struct.Struct("<II")  # length and CRC-32 of the message behind it
ROW_GROUP_ROWS = 100_000  # in memory at once while a journal is finished


class Journal:
    """A journal that this process owns: a new one, or a formerly orphaned one."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self.row_count = self._size = 0
        self.created_at = time.monotonic()

    @classmethod
    def create(cls, folder: Path, schema: pa.Schema) -> "Journal":
        """A new journal for rows of `schema`; a missing folder is created. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            path = folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            if _try_own(fd):
                break
            os.close(fd)  # another process, looking for orphaned journals, came first
        journal = cls(path, fd)
        try:
            journal._write(schema.serialize())
        except OSError:
            path.unlink(missing_ok=True)
            journal.release()
            raise
        return journal

    @classmethod
    def claim_orphaned(cls, folder: Path) -> Iterator["Journal"]:
        """The orphaned journals of a folder, which this process owns from now on."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if _try_own(fd):
                yield cls(path, fd)
            else:
                os.close(fd)

    def append(self, batch: pa.RecordBatch) -> None:
        """Append rows. Raises OSError; the rows are then not written."""
        self._write(batch.serialize())
        self.row_count += batch.num_rows

    def is_deleted(self) -> bool:
        """Whether the file was deleted, so that rows written to it would be lost."""
        return os.fstat(self._fd).st_nlink == 0

    def finish(self) -> None:
        """Turn the journal into a Parquet file in one step, flushed to the disk, and release the journal.

        If this fails, the journal stays and can be finished later. A journal that is finished twice gives the
        same file. Raises OSError or pyarrow.ArrowException.
        """
        # The same name each time: what a killed process left of it is written over.
        partial = self.path.with_suffix(".parquet.partial")
        try:
            if self.is_deleted():
                return
            if self._write_parquet(partial):
                flush_to_disk(partial)
                os.replace(partial, self.path.with_suffix(".parquet"))
                flush_to_disk(self.path.parent)
            self.path.unlink()
        finally:
            partial.unlink(missing_ok=True)
            self.release()

    def release(self) -> None:
        """Close the journal and give up its lock; the file stays."""
        os.close(self._fd)

    def _write(self, message: pa.Buffer) -> None:
        frame = memoryview(FRAME_HEADER.pack(message.size, zlib.crc32(message)) + message.to_pybytes())
        n_written = 0
        while n_written < len(frame):
            # Over the end that a failed write left: half a batch would hide the batches behind it.
            n_written += os.pwrite(self._fd, frame[n_written:], self._size + n_written)
        self._size += n_written

    def _write_parquet(self, path: Path) -> bool:
        """Write all whole batches as one Parquet file. Without a batch, write no file and return False."""
        messages = self._messages()
        schema_message = next(messages, None)
        if schema_message is None:
            return False
        schema = pa.ipc.read_schema(schema_message)  # of the release that wrote it
        batches = (pa.ipc.read_record_batch(message, schema) for message in messages)
        first = next(batches, None)
        if first is None:
            return False
        buffered: list[pa.RecordBatch] = [first]
        with pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in batches:
                if sum(map(len, buffered)) >= ROW_GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(buffered))
                    buffered.clear()
                buffered.append(batch)
            writer.write_table(pa.Table.from_batches(buffered))
        return True

    def _messages(self) -> Iterator[pa.Buffer]:
        """Returns the messages that are complete, up to the first one that is cut off."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while len(head := file.read(FRAME_HEADER.size)) == FRAME_HEADER.size:
                length, checksum = FRAME_HEADER.unpack(head)
                message = file.read(length)
                # Zeros, as a power cut leaves them, are a message of length 0 with its checksum.
                if not length or len(message) < length or zlib.crc32(message) != checksum:
                    return
                yield pa.py_buffer(message)


def read_journal(path: Path) -> list[pa.RecordBatch]:
    """Returns the complete batches of any journal; none if the file is gone or has no schema yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return []
    journal = Journal(path, fd)
    try:
        messages = journal._messages()
        schema_message = next(messages, None)
        if schema_message is None:
            return []
        schema = pa.ipc.read_schema(schema_message)
        return [pa.ipc.read_record_batch(message, schema) for message in messages]
    finally:
        journal.release()


def _try_own(fd: int) -> bool:
    """Lock the journal of `fd`. Returns False if another process owns the journal or has finished it."""
    return lock_descriptor(fd) and os.fstat(fd).st_nlink > 0
