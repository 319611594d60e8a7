"""Calls the routes of a JSON service, parses successful answers, and raises errors."""

import json
import ssl
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from .connections import ConnectionPool
from .errors import UnavailableError, error_of_response

T = TypeVar("T")


class JsonCaller:
    """Calls the routes of one service. Threads may share it.

    Args:
        url: the URL of the service, with its path prefix.
        key: API key; None for a service without keys.
        timeout: seconds for a whole call.
        max_idle: maximum number of idle connections that are kept open.
        context: TLS context; None for that of the system.

    Raises ValueError for a url that is not http:// or https://, a key with characters that no header can
    have, or a timeout that is not above 0.
    """

    def __init__(
        self, url: str, key: str | None, timeout: float, max_idle: int, context: ssl.SSLContext | None
    ) -> None:
        _check_timeout(timeout)
        if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
            raise ValueError("the key is empty, or has characters that no header can have")
        self.timeout = timeout
        self._connections = ConnectionPool(url, max_idle, context)
        self._headers = {"Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def call(
        self, method: str, path: str, parse: Callable[[Any], T], body: bytes | None = None,
        *, repeatable: bool = False, timeout: float | None = None,
    ) -> T:  # fmt: skip
        """Sends a request. Returns what `parse` makes of the JSON of a successful answer.

        Args:
            repeatable: whether the request is sent again once if an idle connection was closed.
            timeout: seconds, in place of the caller's.

        Raises SextetError.
        """
        if timeout is not None:
            _check_timeout(timeout)
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        answer = self._connections.request(method, path, body, headers, timeout or self.timeout, repeatable)
        if not 200 <= answer.status < 300:
            raise error_of_response(answer.status, answer.headers, answer.body)
        try:
            return parse(json.loads(answer.body))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            detail = f"{path}: the answer is not that of the service: {type(error).__name__} {error}"
            raise UnavailableError(detail, answer.status) from error

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()


def path_of(*parts: str) -> str:
    """The path of a route. Percent-encodes each part."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _check_timeout(timeout: float) -> None:
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}: expected seconds above 0")
