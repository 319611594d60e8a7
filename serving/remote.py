"""Reads and writes folders at s3://, gs:// and abfs:// with Arrow's file systems (pyarrow.fs).

Credentials come from the cloud's usual environment variables, profiles and machine roles. The URI may hold
options of the file system: s3://bucket/shop?region=eu-central-1&endpoint_override=host:9000&scheme=http.
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pa_fs

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
CHUNK_BYTES = 8 * 2**20
GCS_RETRY_OPTION, GCS_RETRY_SECONDS = "retry_limit_seconds", 60


def without_secrets(uri: str) -> str:
    """A URI for messages: without a key, and without the options, which may hold a signature."""
    # A password may hold @ and ?: the last @ before the path ends it, as in urllib.
    return re.sub(r"://[^/]*@", "://***@", uri).partition("?")[0]


class RemoteError(OSError):
    """A remote folder that cannot be read or written, or a scheme that is not supported."""


class RemoteFile(NamedTuple):
    """Size and modification time of a remote file."""

    size: int
    modified: float  # Unix seconds

    def is_copied(self, copy: Path) -> bool:
        """Whether a local file has the remote file's size and time of modification."""
        if not copy.is_file():
            return False
        stat = copy.stat()
        return stat.st_size == self.size and abs(stat.st_mtime - self.modified) < 1


def with_retry_limit(uri: str) -> str:
    """The URI with a limit of seconds to the retries of Google's client, which are 15 minutes by default."""
    if not uri.startswith(("gs://", "gcs://")) or GCS_RETRY_OPTION in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{GCS_RETRY_OPTION}={GCS_RETRY_SECONDS}"


class RemoteFolder:
    """A folder, or a single file, behind a URI. Raises RemoteError for a scheme that is not supported."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        check_scheme(uri)
        try:
            self._fs, self._path = pa_fs.FileSystem.from_uri(with_retry_limit(uri))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RemoteError(f"{self}: {_reason(error)}") from error

    def __str__(self) -> str:
        return without_secrets(self.uri)

    def list_files(self) -> dict[str, RemoteFile]:
        """Returns name below the folder → file, at any depth. The key of a single file is its name."""
        try:
            info = self._fs.get_file_info(self._path)
            if info.type == pa_fs.FileType.File:
                return {Path(self._path).name: _remote_file(info)}
            selector = pa_fs.FileSelector(self._path, recursive=True, allow_not_found=True)
            infos = [info for info in self._fs.get_file_info(selector) if info.type == pa_fs.FileType.File]
        except (pa.ArrowException, OSError) as error:
            raise RemoteError(f"{self}: {_reason(error)}") from error
        files = {info.path[len(self._path) :].lstrip("/"): _remote_file(info) for info in infos}
        for name in files:
            if {"", ".", ".."} & {*re.split(r"[/\\]", name)}:
                raise RemoteError(
                    f"{self}: a file is called {name!r}, which may lead out of a folder; remove it"
                )
        return files

    @cached_property
    def is_file(self) -> bool:
        """Whether the URI names a single file."""
        return bool(self._fs.get_file_info(self._path).type == pa_fs.FileType.File)

    def read_text(self, name: str) -> str | None:
        """The text of a small file; None if it does not exist."""
        try:
            with self._fs.open_input_stream(self._join(name)) as stream:
                return bytes(stream.read()).decode()
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError) as error:
            raise RemoteError(f"{self}/{name}: {_reason(error)}") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a small file in one step: readers see the old text or the new one."""
        try:
            with self._fs.open_output_stream(self._join(name)) as stream:
                stream.write(text.encode())
        except (pa.ArrowException, OSError) as error:
            raise RemoteError(f"{self}/{name}: {_reason(error)}") from error

    def upload(self, folder: Path, names: Iterable[str], below: str = "") -> None:
        """Copy `names` from a local folder, in this order, to the remote folder `below`."""
        try:
            for name in names:
                target = self._join(f"{below}/{name}" if below else name)
                with (folder / name).open("rb") as source, self._fs.open_output_stream(target) as stream:
                    while chunk := source.read(CHUNK_BYTES):
                        stream.write(chunk)
        except (pa.ArrowException, OSError) as error:
            raise RemoteError(f"{self}: cannot be written: {_reason(error)}") from error

    def download(self, name: str, target: Path, modified: float | None = None) -> None:
        """Copy a file to a local path in one step, with a time of modification."""
        target.parent.mkdir(parents=True, exist_ok=True)
        source = self._path if self.is_file else self._join(name)
        handle, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file, self._fs.open_input_stream(source) as stream:
                shutil.copyfileobj(stream, file, CHUNK_BYTES)
            if modified is not None:
                os.utime(partial, (modified, modified))
            os.replace(partial, target)
        except (pa.ArrowException, OSError) as error:
            raise RemoteError(f"{self}/{name}: {_reason(error)}") from error
        finally:
            Path(partial).unlink(missing_ok=True)

    def _join(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def join_uri(uri: str, name: str) -> str:
    """The URI of `name` below `uri`; the options stay at the end."""
    path, question_mark, options = uri.partition("?")
    return f"{path.rstrip('/')}/{name}{question_mark}{options}"


def split_uri(uri: str) -> tuple[str, str]:
    """The URI of the folder above, and the name below it."""
    path, question_mark, options = uri.partition("?")
    parent, _, name = path.rstrip("/").rpartition("/")
    return f"{parent}{question_mark}{options}", name


def uri_key(uri: str) -> str:
    """The name of the folder that holds the local copy of a URI."""
    return hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()


def check_scheme(uri: str) -> None:
    """Raises RemoteError for a scheme that is not supported."""
    scheme = uri.partition("://")[0].lower()
    if scheme not in SCHEMES:
        supported = ", ".join(f"{name}://" for name in SCHEMES)
        raise RemoteError(
            f"{without_secrets(uri)}: {scheme}:// is not supported; use {supported} or a local path"
        )


def _remote_file(info: pa_fs.FileInfo) -> RemoteFile:
    return RemoteFile(int(info.size or 0), info.mtime.timestamp() if info.mtime is not None else 0.0)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
