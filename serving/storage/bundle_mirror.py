"""Mirrors a bundle root at a URI (s3://bucket/shop) to a local copy, which is served.

    export ─ push_version ─▶ s3://bucket/shop/<version>/…, then s3://bucket/shop/current
    serve  ─ pull_current ─▶ ~/.cache/sextet/bundles/<hash>/<version>/…, then its link `current`

`current` is written last on both sides, so it always names a complete version. Serving verifies the hash of
every file. After a pull, the copy keeps the newest N_KEPT versions, and versions that a process served in the
last IN_USE_SECONDS; partial files of killed processes are removed.
"""

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ..files import is_uri, lock_file, write_text
from ..remote import RemoteError, RemoteFolder, uri_key
from .bundle import MANIFEST
from .paths import CURRENT
from .versions import list_versions, set_current_version

CACHE = Path("~/.cache/sextet/bundles")
URI_FILE, CHECKED_FILE, LOCK_FILE = ".uri", ".checked", ".lock"  # in a copy
STORE_FILE = "store.arrow"
POLL_INTERVAL_S = 10.0  # between two looks at `current`, by all processes of a machine
N_KEPT = 3  # versions of a copy
IN_USE_SECONDS = 3600.0  # since a process marked that it serves a version
PARTIAL_PREFIX = ".download-"
VERSION = re.compile(r"\w[\w.-]*")


def bundle_path(text: str) -> Path:
    """The local path of a bundle: a path itself, or a URI's local copy with the version of `current`.

    For command lines: raises ArgumentTypeError.
    """
    if not is_uri(text):
        return Path(text)
    try:
        root = local_root(text)
        pull_current(root)
        return root
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def local_root(uri: str, cache: Path = CACHE) -> Path:
    """The folder of the local copy of a bundle root. Raises RemoteError for a wrong scheme."""
    RemoteFolder(uri)
    root = cache.expanduser() / uri_key(uri)
    write_text(root / URI_FILE, uri)
    return root


def is_mirror(root: Path) -> bool:
    """Whether a bundle root is the copy of a remote one."""
    return (root / URI_FILE).is_file()


def has_version(root: Path) -> bool:
    """Whether the remote root has a `current` that names a version. Raises RemoteError."""
    return _remote(root).read_text(CURRENT) is not None


def refresh(root: Path, served: Iterable[str] = ()) -> None:
    """Pull `current`, unless a process of this machine did so within POLL_INTERVAL_S. Raises RemoteError.

    Args:
        served: versions of the root that this process serves; they are kept.
    """
    for version in served:
        if (root / version).is_dir():
            os.utime(root / version)
    checked = root / CHECKED_FILE
    if checked.is_file() and time.time() < checked.stat().st_mtime + POLL_INTERVAL_S:
        return
    pull_current(root)


def pull_current(root: Path, remote: RemoteFolder | None = None, n_kept: int = N_KEPT) -> str:
    """Copy the version that the remote `current` names, point the local `current` at it, and return its name.

    Raises RemoteError if there is no such version or it cannot be copied; the local `current` then stays.

    Args:
        remote: the remote root; None for the remote root that `root` mirrors.
        n_kept: number of newest versions to keep.
    """
    remote = _remote(root) if remote is None else remote
    with lock_file(root / LOCK_FILE):
        (root / CHECKED_FILE).touch()
        version = (remote.read_text(CURRENT) or "").strip()
        if not VERSION.fullmatch(version):
            raise RemoteError(f"{remote}: no version is published (no `{CURRENT}`); export to it first")
        if (root / CURRENT).is_symlink() and os.readlink(root / CURRENT) == version:
            return version  # a poll reads one small file
        if not (root / version / MANIFEST).is_file():
            _download_version(remote, root, version)
        _download_store(remote, root)
        set_current_version(root, version)
        _remove_old_versions(root, n_kept)
    return version


def pull_versions(root: Path, n_latest: int) -> None:
    """Copy the latest remote versions, published or not, so that a rollback can choose one.

    Raises RemoteError.
    """
    remote = _remote(root)
    manifests = [name for name in remote.list_files() if name.endswith(f"/{MANIFEST}")]
    names = {name.partition("/")[0] for name in manifests if name.count("/") == 1}
    versions = sorted(name for name in names if VERSION.fullmatch(name))
    with lock_file(root / LOCK_FILE):
        for version in versions[-n_latest:]:
            if not (root / version / MANIFEST).is_file():
                _download_version(remote, root, version)


def push_version(root: Path, version: str) -> None:
    """Copy a local version to the remote root, then point the remote `current` at it. Raises RemoteError."""
    remote, folder = _remote(root), root / version
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    names.sort(key=lambda name: name == MANIFEST)  # the manifest last
    remote.upload(folder, names, version)
    copied = remote.list_files()
    wrong = [n for n in names if copied.get(f"{version}/{n}", (0,))[0] != (folder / n).stat().st_size]
    if wrong:
        raise RemoteError(f"{remote}/{version}: {', '.join(wrong[:5])} are incomplete; export again")
    if (root / STORE_FILE).is_file():
        remote.upload(root, [STORE_FILE])
    set_remote_version(root, version)


def pull_store(root: Path) -> None:
    """Copy `store.arrow` if the remote file differs. Raises RemoteError."""
    with lock_file(root / LOCK_FILE):
        _download_store(_remote(root), root)


def push_store(root: Path) -> None:
    """Replace the remote `store.arrow` by the local one. Raises RemoteError."""
    with lock_file(root / LOCK_FILE):
        remote = _remote(root)
        remote.upload(root, [STORE_FILE])
        uploaded = remote.list_files()[STORE_FILE]
        os.utime(root / STORE_FILE, (uploaded.modified, uploaded.modified))  # they are the same


def set_remote_version(root: Path, version: str) -> None:
    """Point the remote `current` at a version that exists there. Raises RemoteError."""
    _remote(root).write_text(CURRENT, version)


def _remote(root: Path) -> RemoteFolder:
    return RemoteFolder((root / URI_FILE).read_text().strip())


def _download_version(remote: RemoteFolder, root: Path, version: str) -> None:
    names = [name for name in remote.list_files() if name.startswith(f"{version}/")]
    if f"{version}/{MANIFEST}" not in names:
        raise RemoteError(f"{remote}: `{CURRENT}` names {version}, which is not there; export again")
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{version}-", dir=root))
    try:
        for name in names:
            copy = partial / name.removeprefix(f"{version}/")
            remote.download(name, copy)
            copy.chmod(0o644)  # whoever may enter the root may serve it
        partial.chmod(0o755)
        partial.rename(root / version)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_old_versions(root: Path, n_kept: int) -> None:
    """Remove old versions, and partial files of killed processes. The caller holds the lock."""
    for partial in root.glob(f"{PARTIAL_PREFIX}*"):
        shutil.rmtree(partial, ignore_errors=True)
    names = list_versions(root)
    kept = {*names[-n_kept:], os.readlink(root / CURRENT)}
    for name in names:
        if name not in kept and (root / name).stat().st_mtime < time.time() - IN_USE_SECONDS:
            removed = root / f"{PARTIAL_PREFIX}{name}"
            (root / name).rename(removed)  # in one step: no version is there in part
            shutil.rmtree(removed, ignore_errors=True)


def _download_store(remote: RemoteFolder, root: Path) -> None:
    source, copy = remote.list_files().get(STORE_FILE), root / STORE_FILE
    if source is not None and not source.is_copied(copy):
        remote.download(STORE_FILE, copy, source.modified)
        copy.chmod(0o644)
