"""Signs versions (serving/storage/signatures.py). The key is checked before the long work."""

from pathlib import Path

from exporting.exportable_run import ExportError
from serving.storage.bundle import MANIFEST
from serving.storage.signatures import SIGNATURE, read_private_key, sign_file


def check_key(key_file: Path | None) -> None:
    """Raises ExportError for a private key that cannot sign."""
    if key_file is None:
        return
    try:
        read_private_key(key_file)
    except (OSError, ValueError, ImportError) as error:
        raise ExportError(f"sign={key_file}: {error}") from error


def sign_version(folder: Path, key_file: Path | None) -> None:
    """Sign the manifest of a finished version. Without a key, nothing happens."""
    if key_file is not None:
        sign_file(folder / MANIFEST, folder / SIGNATURE, key_file)


def is_signed(folder: Path, key_file: Path | None) -> bool:
    """Whether a version has the signature of this key. True without a key."""
    if key_file is None:
        return True
    file = folder / SIGNATURE
    # An Ed25519 signature follows from key and content alone.
    return (
        file.is_file()
        and read_private_key(key_file).sign((folder / MANIFEST).read_bytes()) == file.read_bytes()
    )
