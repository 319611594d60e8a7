"""Environments for the libraries that benchmarks compare with, made from PyPI and kept."""

import subprocess
import sys
import venv
from pathlib import Path


def create_environment(
    folder: Path, packages: list[str], imports: str, inherit_packages: bool = False
) -> Path | None:
    """The Python of an environment with `packages`; None where PyPI is out of reach and `imports` is missing.

    With `ours` it sees the packages of this environment too, behind its own: the same torch for both, so that
    libraries are compared and not versions.
    """
    python = folder / "bin" / "python"
    if (folder / ".installed").exists():
        return python
    print(f"installing {', '.join(packages)} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    if inherit_packages:
        (packages_of,) = folder.glob("lib/python*/site-packages")
        here = next(path for path in sys.path if path.endswith("site-packages"))
        (packages_of / "sextet.pth").write_text(here)
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True
    )
    if done.returncode != 0 and subprocess.run([python, "-c", f"import {imports}"]).returncode != 0:
        print(f"left out, it cannot be installed: {done.stderr[-500:]}", flush=True)
        return None
    (folder / ".installed").touch()
    return python
