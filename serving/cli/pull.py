"""`pull`: copy a published version to a folder of this machine."""

from dataclasses import dataclass
from pathlib import Path

from ..command_line import option
from ..remote import RemoteFolder
from ..storage.bundle_mirror import N_KEPT, pull_current


@dataclass(frozen=True, kw_only=True)
class PullOptions:
    """Copy the version that a bundle root behind a URI publishes to a folder.
    Services that serve the folder load the version within a second. `serve --bundle s3://…` does not need
    this command. Run it, for example by a timer, on hosts where another user owns the bundle folder.

    example: %(prog)s --bundle s3://bucket/shop --to /srv/sextet/bundle
    exit codes: 0 the folder has the version, 1 not copied and `current` unchanged, 2 wrong arguments
    """

    bundle: str = option(..., "bundle root: s3://, gs://, abfs://", metavar="URI")
    to: Path = option(..., "bundle root of this machine; it is created", metavar="DIR")
    keep: int = option(N_KEPT, "number of newest versions to keep in the folder", metavar="N")

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"--keep is {self.keep}: expected 1 or more")


def pull(options: PullOptions) -> int:
    """Pull. Returns the exit code."""
    remote = RemoteFolder(options.bundle)
    options.to.mkdir(parents=True, exist_ok=True)
    version = pull_current(options.to, remote, options.keep)
    print(f"{options.to / 'current'} -> {version}")
    return 0
