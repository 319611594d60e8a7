"""The serving package answers in an environment that has its own dependencies and nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("faiss-cpu", "numpy", "pyarrow")  # and torch, which requirements/torch.txt pins


@pytest.mark.slow
def test_a_bare_environment(version: Path, tmp_path: Path) -> None:
    """Installs torch, faiss, numpy and pyarrow as locked, copies `serving/` alone, asks for a slate."""
    locked = (ROOT / "requirements" / "lock.txt").read_text().splitlines()
    pins = [line for line in locked if line.split("==")[0] in NEEDED]
    assert len(pins) == len(NEEDED)
    python = tmp_path / "env" / "bin" / "python"
    run([sys.executable, "-m", "venv", str(tmp_path / "env")], tmp_path)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    run([*install, "-r", str(ROOT / "requirements" / "torch.txt"), *pins], tmp_path)
    shutil.copytree(
        ROOT / "serving", tmp_path / "app" / "serving", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(version.parent, tmp_path / "app" / "bundle", symlinks=True)
    listed = run([str(python), "-m", "pip", "list", "--format=freeze"], tmp_path).lower()
    assert "torchrec" not in listed
    assert "pandas" not in listed
    answer = [str(python), "-m", "serving", "recommend", "--user", "u001", "--items", "i001,i002"]
    printed = run(answer, tmp_path / "app")
    assert "tier ranked" in printed


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
