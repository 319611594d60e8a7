"""`rollback`: serve an earlier version again."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..command_line import option
from ..rollback import roll_back
from ..storage.bundle import version_folder
from ..storage.bundle_mirror import bundle_path
from ..storage.paths import CURRENT
from .bundle_options import trust_option


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Serve an earlier version again.
    Points `current` at an earlier version that loads. Services load that version within a second.

    exit codes: 0 rolled back, 1 there is no such version, 2 wrong arguments
    """

    bundle: Path = option(Path("bundle"), "bundle root; or s3://, gs://, abfs://", parse=bundle_path)
    to: str | None = option(
        None, "version (default: the newest good one older than `current`)", metavar="VERSION"
    )
    trust: tuple[Path, ...] = trust_option()


def rollback(options: RollbackOptions) -> int:
    """Roll back. Returns the exit code."""
    link = options.bundle / CURRENT
    before = version_folder(options.bundle).name if link.exists() else "nothing"
    version, skipped = roll_back(options.bundle, options.to, options.trust)
    for reason in skipped:
        print(f"note: {reason}", file=sys.stderr)
    print(f"{link} -> {version} (before: {before})")
    return 0
