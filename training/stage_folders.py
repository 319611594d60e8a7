"""Stage folders, keyed by a hash of settings and code.

Finished work is reused until settings or code change.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from data.io.code_hash import code_hash, named_modules
from data.io.remote_roots import is_complete, local_root, publish, set_remote_link
from serving.files import write_atomically

STAGE_MANIFEST = "done.json"
DEFAULT_RUNS = Path("artifacts/runs")  # `paths.runs`
LATEST_LINK, BEST_LINK = "latest", "best"  # in `paths.runs`: the last run, and the best of the last sweep
LOCK_FILE = ".lock"  # its modification time is the start of the stage


def stage_folder(root: str | Path, name: str, module: str, *parts: Any) -> Path:
    """Returns the folder `<root>/<name>-<key>`, and creates it if it is missing.

    The key is a hash of `parts`, of the code of `module`, and of the code of classes and functions that
    `parts` name by dotted path (data/io/code_hash.py).
    """
    plain = [OmegaConf.to_container(p, resolve=True) if OmegaConf.is_config(p) else str(p) for p in parts]
    code = code_hash([module, *named_modules(*plain)])
    digest = hashlib.blake2b(json.dumps([plain, code], sort_keys=True).encode(), digest_size=6)
    folder = local_root(root) / f"{name}-{digest.hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder until the block ends.

    While another process is in it, wait with a message.

    A lock ends when its process dies.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        acquired = lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for another process that works on {folder.name}", flush=True)
        acquired = lock.acquire()
    with acquired:
        yield


def is_done(folder: Path) -> bool:
    """Whether the stage of this folder finished."""
    return (folder / STAGE_MANIFEST).is_file()


def fetch_stage(folder: Path) -> bool:
    """Whether the stage of this folder finished: here, or on any machine if `paths.runs` is a URI.

    Raises RemoteError.
    """
    return is_complete(folder, STAGE_MANIFEST)


def read_stage_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage. Raises FileNotFoundError if it did not finish."""
    if not is_done(folder):
        raise FileNotFoundError(
            f"{folder} is not finished (no {STAGE_MANIFEST}): run python train.py again, it resumes"
        )
    manifest: dict[str, Any] = json.loads((folder / STAGE_MANIFEST).read_text())
    return manifest


def write_stage_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest in one step, as the last step of a stage.

    Below a remote root, publish the folder.
    """
    with write_atomically(folder / STAGE_MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=2, sort_keys=True))
    publish(folder, STAGE_MANIFEST)


def disk_is_full(error: BaseException, *folders: str | Path) -> bool:
    """Whether a full disk caused `error`, even if a library wrapped the system's error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    existing = [folder for folder in map(Path, folders) if folder.is_dir()]
    return any(shutil.disk_usage(folder).free < 2**20 for folder in existing)


def run_path(run: str | Path) -> Path:
    """The path of a run folder. The names `latest` and `best` stand for links in `artifacts/runs`."""
    path = Path(run)
    below = DEFAULT_RUNS / path
    return below if str(run) in (LATEST_LINK, BEST_LINK) and not path.exists() and below.is_dir() else path


def link_run(root: str | Path, folder: Path, name: str = LATEST_LINK) -> None:
    """Make `<root>/<name>` a link to a finished run."""
    runs = local_root(root)
    with write_atomically(runs / name) as partial:
        partial.unlink(missing_ok=True)  # a killed process with the same id may have left this file
        partial.symlink_to(folder.name)
    set_remote_link(runs, name, folder.name)
