"""Files that are complete or absent: writing them in one step, for every room."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_atomically(path: Path, sync: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends it replaces `path` in one step.

    Readers see the old file or the new one, never a part. If the block raises, `path` stays as it was and the
    temporary file is removed.

    Args:
        sync: flush the content to the disk first, so that it survives a power cut.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        if sync:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
