"""Writes files atomically, and locks files between processes. For all packages."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


def is_uri(path: str | Path) -> bool:
    """Whether a path has a scheme: s3://bucket/shop."""
    return URI.match(str(path)) is not None


@contextmanager
def write_atomically(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`. When the block ends, the temporary file replaces `path`.

    The replacement takes one step: readers see the old file or the new file, never a partial file. If the
    block raises, `path` stays as it was and the temporary file is removed.

    Args:
        sync: flush file and folder to the disk, so that they survive a power cut.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if sync:
            flush_to_disk(partial)
        os.replace(partial, path)
        if sync:
            flush_to_disk(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned_partials(folder: Path, pattern: str) -> None:
    """Remove the temporary files that killed processes left (write_atomically)."""
    for partial in folder.glob(pattern):
        process = partial.name.split(".")[-2]
        if process.isdecimal() and not _is_alive(int(process)):
            partial.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def lock_descriptor(fd: int) -> bool:
    """Lock an open file or folder (flock) until it is closed; False if it is locked already.

    A lock ends when its process dies. Raises OSError on a file system without locks.
    """
    import fcntl  # here, because Windows has none

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is created if missing; other processes wait.

    The lock of a process ends when the process dies.
    """
    import fcntl  # here, because Windows has none

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically; create its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; a number that is not finite becomes null."""
    text = json.dumps(_replace_nonfinite(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nonfinite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
