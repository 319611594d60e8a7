"""A journal: rows on their way to a Parquet file, in a file that can lose its end and nothing else.

    20261125T194412-4711-9f3a01c2.journal   schema, batch, batch, …; each with its length and CRC-32
    20261125T194412-4711-9f3a01c2.parquet   the same rows, once the journal is finished

A Parquet file is nothing before its footer is written, so a process that is killed would lose all of it. What
was appended to a journal is with the operating system and outlives the process. Of a journal that was cut off
in the middle of a batch, the batches before it count.

The lock (flock) says whose a journal is: it ends with the process, however that ends. A journal that nobody
holds is left over, and any process may finish it. Processes of several machines may share a folder only where
its file system carries flock from one to the other.
"""

import fcntl
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SUFFIX = ".journal"
FRAME_HEADER = struct.Struct("<II")  # length and CRC-32 of what follows
ROW_GROUP = 100_000  # rows that are in memory at once while a journal is finished


class Journal:
    """A journal that this process holds, new or left over."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self._fd = path, fd
        self.row_count = self._size = 0
        self.created = time.monotonic()

    @classmethod
    def create(cls, folder: Path, schema: pa.Schema) -> "Journal":
        """A new journal for rows of `schema`; the folder is made if need be. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            path = folder / f"{stamp}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            if _try_lock(fd):
                break
            os.close(fd)  # somebody looks for journals that nobody holds, and found this one first
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
        """The journals that nobody holds, each held by this process from now on."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            try:
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if _try_lock(fd):
                yield cls(path, fd)
            else:
                os.close(fd)

    def append(self, batch: pa.RecordBatch) -> None:
        """Hand the rows to the operating system. Raises OSError; it then counts for nothing."""
        self._write(batch.serialize())
        self.row_count += batch.num_rows

    def is_deleted(self) -> bool:
        """Whether somebody deleted the file: what is written to it would be lost."""
        return os.fstat(self._fd).st_nlink == 0

    def finish(self) -> None:
        """Turn the journal into a Parquet file, which appears as a whole and on disk, and let it go.

        Where this fails the journal stays, to be finished later. Finishing it twice gives the same file.
        Raises OSError or pyarrow.ArrowException.
        """
        unfinished = self.path.with_suffix(".parquet.partial")
        try:
            if self.is_deleted():
                return
            if self._to_parquet(unfinished):
                with unfinished.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(unfinished, self.path.with_suffix(".parquet"))
                _sync_folder(self.path.parent)
            self.path.unlink()
        finally:
            unfinished.unlink(missing_ok=True)
            self.release()

    def release(self) -> None:
        """Let the journal go as it is."""
        os.close(self._fd)

    def _write(self, message: pa.Buffer) -> None:
        frame = memoryview(FRAME_HEADER.pack(message.size, zlib.crc32(message)) + message.to_pybytes())
        done = 0
        while done < len(frame):
            # What a failed write left is written over: half a batch would hide those behind it.
            done += os.pwrite(self._fd, frame[done:], self._size + done)
        self._size += done

    def _to_parquet(self, path: Path) -> bool:
        """Write all whole batches as one Parquet file; False, and no file, where there is none."""
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            return False
        schema = pa.ipc.read_schema(first)  # of the release that wrote it
        waiting: list[pa.RecordBatch] = []
        writer: pq.ParquetWriter | None = None
        try:
            for message in frames:
                waiting.append(pa.ipc.read_record_batch(message, schema))
                writer = writer or pq.ParquetWriter(
                    path, schema, compression="zstd", write_page_checksum=True
                )
                if sum(map(len, waiting)) >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting.clear()
            if writer is not None and waiting:
                writer.write_table(pa.Table.from_batches(waiting))
        finally:
            if writer is not None:
                writer.close()
        return writer is not None

    def _frames(self) -> Iterator[pa.Buffer]:
        """The messages up to the first that is torn."""
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            while len(head := file.read(FRAME_HEADER.size)) == FRAME_HEADER.size:
                length, checksum = FRAME_HEADER.unpack(head)
                message = file.read(length)
                # Zeros, as a machine without power leaves them, are a message of length 0 with its checksum.
                if not length or len(message) < length or zlib.crc32(message) != checksum:
                    return
                yield pa.py_buffer(message)


def _try_lock(fd: int) -> bool:
    """Hold the file of `fd`; False where another process does or has finished it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
