"""Local copies of tables that lie behind s3://, gs://, abfs:// (serving/remote.py) or http(s)://.

Only files that are new or changed are copied: a copy has the size and the time of modification of its source.
Preparation hashes the bytes, so an unchanged source is not prepared again.
"""

import hashlib
import os
import shutil
import sys
import urllib.request
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.error import URLError
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from data.errors import DataError
from serving.files import is_uri, write_atomically
from serving.remote import RemoteError, RemoteFile, RemoteFolder

CACHE = Path("artifacts/remote")
HTTP_TIMEOUT = 30.0  # seconds without an answer


def local_copy(path: str, cache: Path = CACHE) -> Path:
    """A path of this machine as it is; of a URI, the local copy of the file or folder.

    Raises DataError for a scheme that is not supported, and for what cannot be read.
    """
    if not is_uri(path):
        return Path(path).expanduser()
    folder = cache / hashlib.blake2b(path.encode(), digest_size=8).hexdigest()
    if urlsplit(path).scheme in ("http", "https"):
        return _copy_http(path, folder)
    try:
        remote = RemoteFolder(path)
        files = remote.list_files()
        if not files:
            raise DataError(f"{path}: there is no file below it")
        _remove_others(folder, files)
        changed = {name: file for name, file in files.items() if not file.is_copied(folder / name)}
        for name, file in tqdm(changed.items(), desc=f"copy {path.partition('?')[0]}", file=sys.stderr):
            remote.download(name, folder / name, file.modified)
        return folder / next(iter(files)) if remote.is_file else folder
    except RemoteError as error:
        raise DataError(str(error)) from error


def _remove_others(folder: Path, files: dict[str, RemoteFile]) -> None:
    """Remove copies whose sources are gone."""
    for copy in folder.rglob("*") if folder.is_dir() else ():
        if copy.is_file() and copy.relative_to(folder).as_posix() not in files:
            copy.unlink()


def _copy_http(url: str, folder: Path) -> Path:
    """The copy of a single file behind http(s)://."""
    name = unquote(Path(urlsplit(url).path).name) or "table"
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
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
                    raise DataError(f"{url}: {partial.stat().st_size:,} of {size:,} bytes came; try again")
                if modified:
                    os.utime(partial, (time, time))
    except (URLError, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{url}: cannot be read: {error}") from error
    return target
