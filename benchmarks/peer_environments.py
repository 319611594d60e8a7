"""Virtual environments for the libraries that benchmarks compare with, installed from PyPI and kept."""

import subprocess
import sys
import venv
from pathlib import Path


def create_environment(
    folder: Path, packages: list[str], imports: str, inherit_packages: bool = False
) -> Path | None:
    """Create an environment with `packages`; return its Python, or None if they cannot be installed.

    Args:
        imports: modules, separated by commas; if all can be imported, a failed installation counts as done.
        inherit_packages: also use the packages of this environment, so that both environments have the same
            version of torch; packages installed in the new environment take precedence.
    """
    python = folder / "bin" / "python"
    if (folder / ".installed").exists():
        return python
    print(f"installing {', '.join(packages)} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    if inherit_packages:
        (site_packages,) = folder.glob("lib/python*/site-packages")
        inherited = next(path for path in sys.path if path.endswith("site-packages"))
        (site_packages / "sextet.pth").write_text(inherited)
    pip = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True
    )
    if pip.returncode != 0 and subprocess.run([python, "-c", f"import {imports}"]).returncode != 0:
        print(f"left out, it cannot be installed: {pip.stderr[-500:]}", flush=True)
        return None
    (folder / ".installed").touch()
    return python
