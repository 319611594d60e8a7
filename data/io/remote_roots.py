"""Folders of finished work below a root at s3://, gs:// or abfs://. A folder is complete or absent.

local_root(uri) ─▶ artifacts/remote/<key>/      work happens in this copy of the root
publish(folder) ─▶ uri/<name>/…                 its marker last: no folder is half-complete
is_complete(folder) ◀─ uri/<name>/…             where another machine finished it
"""

import sys
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from serving.files import is_uri, write_text
from serving.remote import RemoteFolder, join_uri, uri_key

CACHE = Path("artifacts/remote")
URI_FILE = ".remote"  # file in the copy of a root that holds the URI
UNSHARED = ("last.ckpt", ".", "mlflow_outbox")  # prefix of names that only this machine needs


class RemotePath(NamedTuple):
    """The remote place of a local folder."""

    root: RemoteFolder
    name: str  # below the root


def local_root(root: str | Path) -> Path:
    """The local folder of a root: a local root itself, or the folder of a URI's copy.

    Raises RemoteError for a scheme that is not supported.
    """
    if not is_uri(root):
        return Path(root)
    uri = str(root)
    folder = CACHE / uri_key(uri)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / URI_FILE).is_file():
        RemoteFolder(uri)
        write_text(folder / URI_FILE, uri)
    return folder


def remote_path(folder: Path) -> RemotePath | None:
    """The remote place of a folder or a folder inside it. None if its root is local."""
    for root in list(folder.absolute().parents)[:2]:
        file = root / URI_FILE
        if file.is_file():
            return RemotePath(RemoteFolder(file.read_text()), folder.absolute().relative_to(root).as_posix())
    return None


def is_complete(folder: Path, marker: str) -> bool:
    """Whether a folder has its marker file, locally or remotely.

    A folder that is only remote is copied here. A folder that is only local, because its upload was
    interrupted, is uploaded. Raises RemoteError.
    """
    is_here, remote = (folder / marker).is_file(), remote_path(folder)
    if remote is None:
        return is_here
    is_there = remote.root.read_text(f"{remote.name}/{marker}") is not None
    if is_here and not is_there:
        publish(folder, marker)
    elif is_there and not is_here:
        _download(remote, folder, marker)
    return is_here or is_there


def publish(folder: Path, marker: str) -> None:
    """Upload a folder below a remote root, its marker last. Does nothing for a local root.

    Raises RemoteError.
    """
    remote = remote_path(folder)
    if remote is None:
        return
    files = [file.relative_to(folder) for file in folder.rglob("*") if file.is_file()]
    names = [file.as_posix() for file in files if not any(part.startswith(UNSHARED) for part in file.parts)]
    names = sorted(names, key=lambda name: (name == marker, name))
    remote.root.upload(folder, tqdm(names, desc=f"upload {remote.name}", file=sys.stderr), remote.name)


def set_remote_link(root: Path, name: str, target: str) -> None:
    """Make `name` in a remote root a link to one of its folders."""
    file = root / URI_FILE
    if file.is_file():
        RemoteFolder(file.read_text()).write_text(name, target)


def _download(remote: RemotePath, folder: Path, marker: str) -> None:
    source = RemoteFolder(join_uri(remote.root.uri, remote.name))
    names = sorted(source.list_files(), key=lambda name: name == marker)
    for name in tqdm(names, desc=f"copy {remote.name}", file=sys.stderr):
        source.download(name, folder / name)
