"""Stage folders keyed by what went into them: done work is reused, changed settings or code never are."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parent.parent
STAGE_MANIFEST = "done.json"


def stage_folder(root: str | Path, name: str, *parts: Any) -> Path:
    """`<root>/<name>-<key>`, made if missing.

    The key is a hash of `parts` and of the code of `models` and `training`.
    """
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        plain = OmegaConf.to_container(part, resolve=True) if isinstance(part, DictConfig) else str(part)
        digest.update(json.dumps(plain, sort_keys=True).encode())
    for file in [*sorted((ROOT / "models").rglob("*.py")), *sorted((ROOT / "training").rglob("*.py"))]:
        digest.update(file.read_bytes())
    folder = Path(root) / f"{name}-{digest.hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lock_folder(folder: Path) -> IO[str]:
    """Wait until no other process works in this folder, then keep others out.

    The hold ends when the returned file is closed: at the latest with the process, however it ends.
    """
    file = (folder / ".lock").open("a")  # its time stays that of the stage's start
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that works on {folder.name}", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_done(folder: Path) -> bool:
    """Whether the stage of this folder finished."""
    return (folder / STAGE_MANIFEST).is_file()


def read_stage_manifest(folder: Path) -> dict[str, Any]:
    """What the finished stage noted. Raises FileNotFoundError if it did not finish."""
    if not is_done(folder):
        raise FileNotFoundError(
            f"{folder} is not finished (no {STAGE_MANIFEST}): run python train.py again, it resumes"
        )
    return json.loads((folder / STAGE_MANIFEST).read_text())


def write_stage_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the notes in one step, as the last act of a stage."""
    partial = folder / f"{STAGE_MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2, sort_keys=True))
    os.replace(partial, folder / STAGE_MANIFEST)


def disk_is_full(error: BaseException, *folders: str | Path) -> bool:
    """Whether `error` came of a full disk: libraries wrap what the system said, or say something else."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    known = [folder for folder in map(Path, folders) if folder.is_dir()]
    return any(shutil.disk_usage(folder).free < 2**20 for folder in known)


def update_latest_link(root: str | Path, folder: Path) -> None:
    """Make `<root>/latest` point at a finished run."""
    link = Path(root) / "latest"
    partial = link.with_name("latest.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    os.replace(partial, link)
