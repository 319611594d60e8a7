"""Checks API keys. Decides which key may call which route."""

import hmac
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from .problems import ProblemError, not_configured_error

PUBLIC_PATHS = ("/healthz", "/readyz", "/docs", "/openapi.json")  # need no key
ADMIN_PATHS = ("/v1/rules", "/v1/items", "/v1/users")  # with all below them: need an admin key


def needs_admin_key(path: str) -> bool:
    """Whether only administrators may call the path."""
    return path.startswith(ADMIN_PATHS)


class ApiKeys:
    """The API keys of a shop's pages, and the admin keys, with which every route may be called.

    Args:
        file: text file with one key per line (several during a rotation); None if the routes of a shop need
            no key.
        admin_file: the same for ADMIN_PATHS; None if these routes are not configured.

    Raises OSError, or ValueError for a file without a key.
    """

    def __init__(self, file: Path | None, admin_file: Path | None) -> None:
        self._files = file, admin_file
        self.reload()

    def reload(self) -> None:
        """Read the files again. Raises OSError or ValueError; the current keys then stay valid."""
        file, admin_file = self._files
        shop_hashes, admin_hashes = _read_key_hashes(file), _read_key_hashes(admin_file)
        self._shop_hashes, self._admin_hashes = shop_hashes, admin_hashes

    def check(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises ProblemError (401, 403, 501) unless the request may call the path."""
        if path in PUBLIC_PATHS:
            return
        if needs_admin_key(path):
            if not self._admin_hashes:
                raise not_configured_error("file of admin keys", "--admin-key-file")
            digest = _bearer_digest(headers)
            if not _matches(digest, self._admin_hashes):
                if _matches(digest, self._shop_hashes):
                    raise ProblemError(403, "this route needs an admin key")
                raise _unauthorized("a valid admin key")
        elif self._shop_hashes and not _matches(
            _bearer_digest(headers), (*self._shop_hashes, *self._admin_hashes)
        ):
            raise _unauthorized("a valid API key")


def _unauthorized(key: str) -> ProblemError:
    return ProblemError(
        401, f"send {key} as Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"}
    )


def _bearer_digest(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """SHA-256 of the key that the request carries; None without one."""
    authorization = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, key = authorization.partition(b" ")
    return sha256(key.strip()).digest() if scheme.lower() == b"bearer" else None


def _matches(digest: bytes | None, hashes: Sequence[bytes]) -> bool:
    # Every hash is compared, in constant time, so that timing reveals nothing.
    return sum(hmac.compare_digest(digest or b"", key_hash) for key_hash in hashes) > 0


def _read_key_hashes(file: Path | None) -> list[bytes]:
    """SHA-256 of the keys of a file. Raises OSError, or ValueError for a file without a key."""
    if file is None:
        return []
    keys = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not keys:
        raise ValueError(f"{file}: the file holds no API key; write one key per line")
    return [sha256(key.encode()).digest() for key in keys]
