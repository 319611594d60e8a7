"""Files that are complete or absent, and locks between processes: for every room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; when the block ends it replaces `path` in one step.

    Readers see the old file or the new one, never a part. If the block raises, `path` stays as it was and the
    temporary file is removed.

    Args:
        sync: flush file and folder to the disk, so that they survive a power cut.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if sync:
            _flush_to_disk(partial)
        os.replace(partial, path)
        if sync:
            _flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def lock_file(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of a file or folder until the block ends; yield whether this process has it.

    Without `wait` the block runs with False while another process holds the lock. A file that is missing is
    created, and stays. The lock of a process that dies ends with it. Raises OSError.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    fd = os.open(path, flags, 0o644)
    try:
        yield lock_descriptor(fd, wait)
    finally:
        os.close(fd)


def lock_descriptor(fd: int, wait: bool = False) -> bool:
    """Lock an open file (flock) until it is closed; False where another process holds it."""
    import fcntl  # here, because Windows has none

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _flush_to_disk(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
