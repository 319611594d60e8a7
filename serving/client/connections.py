"""Connections that stay open between requests, for any number of threads."""

import http.client
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from .errors import UnavailableError

IDLE_SECONDS = 50.0  # that a connection is kept: the service closes it after 75 s, proxies after 60
MAX_ANSWER = 16 * 2**20  # bytes
CHUNK_BYTES = 65536
# A connection that the other side closed while it was idle: the request was most likely never read.
DROPPED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Answer(NamedTuple):
    """A response: its status, headers and body. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ConnectionPool:
    """Connections to one service; the most recently used connection is reused first.

    Args:
        url: http:// or https://, with a path prefix or without.
        max_idle: maximum number of idle connections that are kept open.
        context: TLS context; None for that of the system.

    Raises ValueError for any other URL.
    """

    def __init__(self, url: str, max_idle: int, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"the url is {url!r}: expected http://host:port or https://host")
        self._host, self._port, self._prefix = parts.hostname, parts.port, parts.path.rstrip("/")
        self._is_tls = parts.scheme == "https"
        self._context = (context or ssl.create_default_context()) if self._is_tls else None
        self._max_idle = max_idle
        self._idle: deque[tuple[http.client.HTTPConnection, float]] = deque()
        self._lock = threading.Lock()

    def request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float,
        repeatable: bool,
    ) -> Answer:  # fmt: skip
        """The answer to one request.

        Args:
            timeout: seconds for everything: to connect, to send, to wait and to read.
            repeatable: whether the request is sent again once if an idle connection was closed.

        Raises UnavailableError if no complete response arrives in time.
        """
        deadline = time.monotonic() + timeout
        try:
            connection = self._take()
            if connection is not None:
                try:
                    return self._exchange(connection, method, path, body, headers, deadline)
                except DROPPED:
                    if not repeatable:
                        raise
            return self._exchange(self._connect(deadline), method, path, body, headers, deadline)
        except TimeoutError as error:
            raise UnavailableError(f"{method} {path}: no answer in {timeout:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"{method} {path}: {error or type(error).__name__}") from error

    def close(self) -> None:
        """Close the idle connections. Later requests open new ones."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection, _ in idle:
            connection.close()

    def _connect(self, deadline: float) -> http.client.HTTPConnection:
        timeout = _remaining(deadline)
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._context)

    def _exchange(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None,
        headers: Mapping[str, str], deadline: float,
    ) -> Answer:  # fmt: skip
        try:
            if connection.sock is None:
                connection.connect()
            sock = connection.sock
            sock.settimeout(_remaining(deadline))
            connection.request(method, self._prefix + path, body, dict(headers))
            response = connection.getresponse()
            content = _read(response, sock, deadline)
        except BaseException:
            connection.close()
            raise
        self._keep(connection, response.will_close)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, headers, content)

    def _take(self) -> http.client.HTTPConnection | None:
        """An idle connection that is still open; None if there is none."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if time.monotonic() < since + IDLE_SECONDS and not _is_readable(connection):
                return connection
            connection.close()

    def _keep(self, connection: http.client.HTTPConnection, will_close: bool) -> None:
        with self._lock:
            if not will_close and len(self._idle) < self._max_idle:
                self._idle.append((connection, time.monotonic()))
                return
        connection.close()


def _read(response: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """The body of a response; every part must arrive before the deadline."""
    length = response.length  # None: until the last chunk, or the end of the connection
    left = MAX_ANSWER if length is None else length
    if left > MAX_ANSWER:
        raise http.client.HTTPException(f"the answer has more than {MAX_ANSWER:,} bytes")
    chunks = []
    while left:
        sock.settimeout(_remaining(deadline))
        chunk = response.read1(min(left, CHUNK_BYTES))
        if not chunk:
            break
        chunks.append(chunk)
        left -= len(chunk)
    if (left == 0) == (length is None):
        raise http.client.HTTPException("the answer is cut off, or too long")
    response.close()  # its socket stays open
    return b"".join(chunks)


def _is_readable(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection is readable, which means that it was closed."""
    if connection.sock is None:
        return True
    poll = select.poll()  # select() takes no descriptor above 1,023
    poll.register(connection.sock, select.POLLIN)
    return bool(poll.poll(0))


def _remaining(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError after it."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
