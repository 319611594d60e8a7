"""`rollback`: serve an earlier version again, after it has proved that it loads."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .recommender import Recommender
from .storage.bundle import BundleError, version_folder
from .storage.versions import CURRENT, list_versions, set_current_version


def roll_back(root: Path, to: str | None = None) -> tuple[str, list[str]]:
    """Point `current` at version `to`, or at the newest one older than `current` that is good.

    Good is what loads and replays its golden requests here, as a service would. Returns the version and why
    later ones were passed over. Raises BundleError, and changes nothing, if there is no such version.
    """
    if not (root / CURRENT).is_symlink():
        raise BundleError(root, "no bundle root (a `current` link is missing)", "name the folder of versions")
    there = list_versions(root)
    now = Path(os.readlink(root / CURRENT)).name
    if to is not None:
        if to not in there:
            raise BundleError(root, f"there is no version {to}", f"choose one of {', '.join(there)}")
        Recommender.load(root / to)
        set_current_version(root, to)
        return to, []
    passed = []
    for version in reversed([name for name in there if name < now]):
        try:
            Recommender.load(root / version)
        except (BundleError, OSError, ValueError) as error:
            passed.append(f"{version} was passed over: {error}")
            continue
        set_current_version(root, version)
        return version, passed
    reasons = "".join(f"; {reason}" for reason in passed)
    raise BundleError(root, f"no good version older than {now}{reasons}", "export again, or choose with --to")


def add_rollback_parser(commands: Any) -> None:
    """The arguments of `python -m serving rollback`."""
    command: argparse.ArgumentParser = commands.add_parser(
        "rollback",
        help="serve an earlier version again",
        description="Point `current` at an earlier version that loads. Services follow within a second.",
    )
    command.add_argument("--bundle", type=Path, default=Path("bundle"), help="bundle root (default: bundle)")
    command.add_argument("--to", metavar="VERSION", help="default: the newest good one older than `current`")
    command.set_defaults(run=run_rollback)


def run_rollback(_: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """`python -m serving rollback`. Returns the exit code."""
    root = options.bundle
    try:
        before = version_folder(root).name if (root / CURRENT).exists() else "nothing"
        version, passed = roll_back(root, options.to)
    except (BundleError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for line in passed:
        print(f"note: {line}", file=sys.stderr)
    print(f"{root / CURRENT} -> {version} (before: {before})")
    return 0
