"""Local copies of tables and logs that lie behind s3://, gs://, abfs:// (remote.py) or http(s)://.

Only new or changed files are copied: an unchanged file has the size and the modification time of its copy.
Data preparation hashes the bytes, so an unchanged source is not prepared again.
"""

import argparse
import os
import shutil
import sys
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

from .command_line import option
from .files import is_uri, lock_file, write_atomically
from .remote import RemoteError, RemoteFile, RemoteFolder, uri_key, without_secrets

CACHE = Path("~/.cache/sextet/files")
HTTP_TIMEOUT = 30.0  # seconds without an answer


def input_option(default: Any, help: str, **settings: Any) -> Any:
    """An option for a file or folder that a command reads: a path or a URI."""
    return option(default, f"{help}; or its URI", parse=input_path, **settings)


def input_path(text: str) -> Path:
    """Returns the local path of an input. A path stays as it is; for a URI, it is that of the local copy.

    For command lines: raises ArgumentTypeError.
    """
    try:
        return local_copy(text)
    except RemoteError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def local_copy(path: str, cache: Path = CACHE) -> Path:
    """Returns the local path of a path or URI. A path stays as it is; a URI's file or folder is copied.

    Prints the path of the copy, because error messages name the copied files. Raises RemoteError for an
    unsupported scheme and for unreadable files.
    """
    if not is_uri(path):
        return Path(path).expanduser()
    folder = cache.expanduser() / uri_key(path)
    is_web = urlsplit(path).scheme in ("http", "https")
    remote = None if is_web else RemoteFolder(path)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{without_secrets(path)}: copy in {folder}", file=sys.stderr, flush=True)
    with lock_file(folder.with_suffix(".lock")):
        return _copy_http(path, folder) if remote is None else _copy_files(remote, folder)


def _copy_files(remote: RemoteFolder, folder: Path) -> Path:
    """Copy the folder or file behind a URI. Returns the path of the copy."""
    files = remote.list_files()
    if not files:
        raise RemoteError(f"{remote}: there is no file below it")
    _remove_others(folder, files)
    for name, file in files.items():
        if not file.is_copied(folder / name):
            remote.download(name, folder / name, file.modified)
    return folder / next(iter(files)) if remote.is_file else folder


def _remove_others(folder: Path, files: dict[str, RemoteFile]) -> None:
    """Remove copies whose sources are gone."""
    for copy in folder.rglob("*") if folder.is_dir() else ():
        if copy.is_file() and copy.relative_to(folder).as_posix() not in files:
            copy.unlink()


def _copy_http(url: str, folder: Path) -> Path:
    """Copy a single file behind http(s)://. Returns the path of the copy."""
    name = unquote(Path(urlsplit(url).path).name) or "table"
    target = folder / name
    try:
        with urllib.request.urlopen(url, timeout=HTTP_TIMEOUT) as answer:
            modified = answer.headers.get("Last-Modified")
            time = parsedate_to_datetime(modified).timestamp() if modified else 0.0
            size = int(answer.headers.get("Content-Length") or -1)
            if modified and RemoteFile(size, time).is_copied(target):
                return target
            with write_atomically(target) as partial:
                with partial.open("wb") as file:
                    shutil.copyfileobj(answer, file)
                if size >= 0 and partial.stat().st_size != size:
                    raise RemoteError(
                        f"{without_secrets(url)}: {partial.stat().st_size:,} of {size:,} bytes; try again"
                    )
                if modified:
                    os.utime(partial, (time, time))
    except (URLError, OSError, ValueError) as error:
        if isinstance(error, RemoteError):
            raise
        raise RemoteError(f"{without_secrets(url)}: cannot be read: {error}") from error
    return target
