"""A folder like a clone of the repository, with an environment for a page's commands."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment


def clone(folder: Path) -> Path:
    """Copies of all that the repository tracks, or will, and its environment; a page may change them."""
    names = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    ).splitlines()
    for name in names:
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    (folder / ".venv").unlink(missing_ok=True)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def page_environment(home: Path, binaries: Path) -> dict[str, str]:
    """The environment of a page's commands: a home of their own, and `sextet` of the wheel.

    Args:
        home: for caches and settings; bytecode too.
        binaries: folder of `sextet`.
    """
    home.mkdir(parents=True, exist_ok=True)
    variables = environment()
    return {
        **{name: value for name, value in variables.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")},
        "HOME": str(home),
        "PATH": f"{binaries}:{variables['PATH']}",
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
        "PYTHONUNBUFFERED": "1",
    }


def install_wheel(folder: Path) -> Path:
    """An environment with the wheel `sextet`, on the packages of this one; returns its folder of programs."""
    source, target = folder / "source", folder / "environment"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "serving", source / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip"]
    offline = ["--no-deps", "--no-index", "--quiet"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, timeout=HANG_SECONDS)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(target)], check=True)
    (wheel,) = folder.glob("*.whl")
    (packages,) = target.glob("lib/python*/site-packages")
    (locked,) = Path(sys.prefix).glob("lib/python*/site-packages")
    (packages / "locked.pth").write_text(f"{locked}\n")
    install = [*pip, "--python", str(target / "bin" / "python"), "install", *offline, str(wheel)]
    subprocess.run(install, check=True, timeout=HANG_SECONDS)
    return target / "bin"
