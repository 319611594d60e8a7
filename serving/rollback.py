"""`rollback`: serve an earlier version again, after loading it successfully."""

import os
from collections.abc import Sequence
from pathlib import Path

from .recommender import Recommender
from .storage.bundle import BundleError
from .storage.bundle_mirror import is_mirror, pull_versions, set_remote_version
from .storage.versions import CURRENT, earlier_versions, list_versions, set_current_version

N_REMOTE_VERSIONS = 5  # the latest ones, that are copied from a bundle root behind a URI


def roll_back(root: Path, to: str | None = None, trust: Sequence[Path] = ()) -> tuple[str, list[str]]:
    """Point `current` at version `to`, or at the newest good one older than `current`.

    A version is good if it loads and replays its golden requests here, as in a service. If `trust` has public
    keys, one of them must also have signed the version. Returns the version, and the reasons why newer
    versions were passed over. Raises BundleError, and changes nothing, if there is no good version.
    """
    if is_mirror(root):
        pull_versions(root, N_REMOTE_VERSIONS)
    if not (root / CURRENT).is_symlink():
        raise BundleError(root, "no bundle root (a `current` link is missing)", "name the folder of versions")
    versions = list_versions(root)
    current = Path(os.readlink(root / CURRENT)).name
    if to is not None:
        if to not in versions:
            raise BundleError(root, f"there is no version {to}", f"choose one of {', '.join(versions)}")
        Recommender.load(root / to, trust=trust)
        _set_current(root, to)
        return to, []
    skipped = []
    for version in earlier_versions(root):
        try:
            Recommender.load(root / version, trust=trust)
        except (BundleError, OSError, ValueError) as error:
            skipped.append(f"{version} was passed over: {error}")
            continue
        _set_current(root, version)
        return version, skipped
    reasons = "".join(f"; {reason}" for reason in skipped)
    raise BundleError(
        root,
        f"no good version older than {current}{reasons}",
        "export again, or choose a version with --to VERSION",
    )


def _set_current(root: Path, version: str) -> None:
    if is_mirror(root):
        set_remote_version(root, version)
    set_current_version(root, version)
