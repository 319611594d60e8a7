"""The source of a page: the command that wrote it, the code's version, and the date."""

import re
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from reporting.formatting import format_time

ROOT = Path(__file__).parents[1]
PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")  # user and password of an address


def provenance() -> list[tuple[str, str]]:
    """Return rows (name, value) about this process."""
    return [
        ("Command", command(sys.orig_argv)),
        ("Sextet", code_version()),
        ("Written", format_time(time.time())),
    ]


def command(arguments: list[str]) -> str:
    """Return the command line as a person types it; passwords in addresses become `…`."""
    program, *further = arguments
    if further and Path(further[0]).parent == Path(program).parent:
        program, *further = further  # an installed command beside its interpreter
    name = Path(program).name
    line = shlex.join(["python" if name.startswith("python") else name, *further])
    return PASSWORD.sub("…@", line)


@cache
def code_version() -> str:
    """Return `version 1.2.0, commit 0123456789ab`; without a repository the version alone."""
    parts = []
    with suppress(PackageNotFoundError):
        parts.append(f"version {version('sextet')}")
    with suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        parts.append(f"commit {commit}")
    return ", ".join(parts) or "unknown version"
