"""Run the project's commands as a user does, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


HANG_SECONDS = 900  # no command takes so long, however busy the machine is


def command(
    *arguments: str, timeout: float = HANG_SECONDS, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """The finished `python <arguments>` in a folder, the project's root; the caller checks the exit code."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
    )


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """The same command, started in the background without output."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def train_arguments(folder: Path, shop: Path, *overrides: str) -> list[str]:
    """`train.py` on a small shop; it writes below `folder`, and to MLflow with `logger=mlflow`."""
    has_logger = any(override.startswith("logger=") for override in overrides)
    return [
        "train.py", "experiment=debug", "data=tables", f"data.root={shop}",
        f"paths.prepared={folder}/prepared", f"paths.runs={folder}/runs",
        f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db",
        *([] if has_logger else ["logger=none"]),  # a new database takes longer than a small training
        *overrides,
    ]  # fmt: skip


def finished(folder: Path, stage: str) -> dict:
    """The manifest of the only finished stage folder `<stage>-*`."""
    (done,) = (folder / "runs").glob(f"{stage}-*/done.json")
    return json.loads(done.read_text())
