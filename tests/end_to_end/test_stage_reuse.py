"""`train.py` after edits of the code: a stage runs again only if its own code changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.shop import write_shop
from tests.end_to_end.commands import HANG_SECONDS, ROOT, environment, train_arguments

ROOMS = (
    "configs",
    "data",
    "evaluation",
    "exporting",
    "models",
    "reporting",
    "serving",
    "simulation",
    "training",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, to edit, with a small shop beside it."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / "code" / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train.py", tmp_path / "code")
    write_shop(tmp_path / "shop", users=40, items=40, days=80)
    return tmp_path


def train(tree: Path) -> set[str]:
    """The stage folders and prepared folders after a run of the copy's `train.py`."""
    done = subprocess.run(
        [sys.executable, *train_arguments(tree, tree / "shop")],
        cwd=tree / "code", capture_output=True, text=True, timeout=HANG_SECONDS,
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    folders = [*(tree / "runs").iterdir(), *(tree / "prepared").iterdir()]
    return {folder.name for folder in folders if folder.is_dir() and not folder.is_symlink()}


@pytest.mark.slow
def test_only_stages_whose_code_changed_run_again(tree: Path) -> None:
    first = train(tree)
    losses = tree / "code" / "models" / "ranking" / "listwise_losses.py"
    text = losses.read_text()
    losses.write_text(text.replace('"""', '"""Edited. ', 1) + "\n# A comment.\n")
    (tree / "code" / "models" / "unused.py").write_text("import torch\n")
    assert train(tree) == first
    losses.write_text(text + "\nUNUSED = 1\n")
    new = train(tree) - first
    assert [name.split("-")[0] for name in new] == ["ranker"]
    assert os.readlink(tree / "runs" / "latest") in new
