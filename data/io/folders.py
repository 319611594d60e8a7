"""Folders that are published in one step: a folder is complete or absent, never half-written."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

META_FILE = "meta.json"  # marks a complete prepared folder


@contextmanager
def publish_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`. When the block ends, rename it to `folder` in one step.

    If another process has published `folder` meanwhile (the folder has the file `marker`), that folder is
    kept. If the block raises, nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # because mkdtemp denies access to other users
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / marker).is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
