"""Checks the folder of an impression log before the log is used."""

import tempfile
from pathlib import Path


def check_log_folder(folder: Path) -> None:
    """Create the folder of a log and write to it. Raises OSError with the reason and the remedy."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise OSError(
            f"{folder}: the impression log cannot be written: {error.strerror or error}. To do: make the"
            " folder writable and the disk free, or give --log another folder"
        ) from error
