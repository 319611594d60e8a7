"""The versions in a bundle root, and the version that serves.

`current` is a symbolic link that is always replaced in one step, so every reader finds a version.
"""

import os
from pathlib import Path

from ..files import write_atomically
from .bundle import MANIFEST, BundleError
from .paths import CHALLENGER_FOLDER, CURRENT

__all__ = [
    "CHALLENGER_FOLDER",
    "CURRENT",
    "earlier_versions",
    "find_version",
    "list_versions",
    "set_current_version",
]


def list_versions(root: Path) -> list[str]:
    """Names of the version folders, the oldest first: a name starts with the time of its export."""
    return sorted(
        folder.name
        for folder in root.iterdir()
        if not folder.is_symlink() and not folder.name.startswith(".") and (folder / MANIFEST).is_file()
    )


def earlier_versions(root: Path) -> list[str]:
    """Returns the names of the versions older than `current`, the newest first.

    Without a `current`, returns the names of all versions.
    """
    link = root / CURRENT
    current = Path(os.readlink(link)).name if link.is_symlink() else None
    return [name for name in reversed(list_versions(root)) if current is None or name < current]


def find_version(root: Path, version: str) -> Path:
    """The folder of a version, published or not. Raises BundleError if there is none."""
    if Path(version).name != version:
        raise BundleError(
            root, f"{version!r} is not the name of a version", "give the name of a version's folder"
        )
    parents = [folder for folder in (root, root / CHALLENGER_FOLDER) if folder.is_dir()]
    for parent in parents:
        if (parent / version / MANIFEST).is_file():
            return (parent / version).resolve()
    names = [name for parent in parents for name in list_versions(parent)]
    raise BundleError(root, f"there is no version {version}", f"choose one of {', '.join(names) or 'none'}")


def set_current_version(root: Path, version: str) -> None:
    """Point `current` at a version, in one step."""
    with write_atomically(root / CURRENT) as link:
        link.unlink(missing_ok=True)
        link.symlink_to(version)
