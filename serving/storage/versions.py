"""The versions in a bundle root: which there are, which one serves, and back to an earlier one.

`current` is a symbolic link and is only ever replaced as a whole, so that whoever looks finds one version.
"""

import os
from pathlib import Path

from .bundle import MANIFEST, BundleError

CURRENT = "current"
CHALLENGER_FOLDER = ".challenger"  # in a bundle root: versions that retraining made and did not publish


def list_versions(root: Path) -> list[str]:
    """Names of the version folders, the oldest first: a name starts with the time of its export."""
    return sorted(
        folder.name
        for folder in root.iterdir()
        if not folder.is_symlink() and not folder.name.startswith(".") and (folder / MANIFEST).is_file()
    )


def find_version(root: Path, version: str) -> Path:
    """The folder of a version, published or not. Raises BundleError if there is none."""
    places = [place for place in (root, root / CHALLENGER_FOLDER) if place.is_dir()]
    for place in places:
        if (place / version / MANIFEST).is_file():
            return (place / version).resolve()
    there = [name for place in places for name in list_versions(place)]
    raise BundleError(root, f"there is no version {version}", f"choose one of {', '.join(there) or 'none'}")


def set_current_version(root: Path, version: str) -> None:
    """Let `current` name a version, in one step."""
    link = root / f".{CURRENT}-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(version)
    os.replace(link, root / CURRENT)
