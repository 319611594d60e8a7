"""Limits the connections of a worker: their number, their time and their bytes.

    open ── first byte ── head complete ── body complete ── response ── next request
    ├─ IDLE ─┼── HEAD ────────┼──── BODY ───────┤             ├─ IDLE (keep-alive) ─┤   seconds per phase

If there are too many connections, the connection that has been idle longest is closed for a new one.
"""

import asyncio
import json
import os
import resource
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

IDLE_TIMEOUT = 75  # longer than the usual 60 s of proxies, so that they close idle connections
HEAD_TIMEOUT = 10  # from the first byte of a request to the end of its headers
BODY_TIMEOUT = 30  # to the end of its body; serving/http/body.py answers 408 before
WRITE_TIMEOUT = 30  # for a client to read on
LINGER_TIMEOUT = 2  # for a client to read why its request is refused, while it still sends
MAX_HEAD_BYTES = 32 * 1024
MAX_CONNECTIONS = 10_000  # of a worker
RESERVED_FILES = 64  # descriptors of a worker for what it opens later
MAX_FILES = 65_536


class TooLargeHead(Exception):
    """The headers of a request have too many bytes."""


def raise_file_limit() -> int:
    """Raise the limit of open files to the highest allowed. Returns how many connections fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    n_files = MAX_FILES if soft == resource.RLIM_INFINITY else soft
    n_open = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else RESERVED_FILES
    return max(1, min(MAX_CONNECTIONS, n_files - n_open - RESERVED_FILES))


class ConnectionState(ServerState):
    """State shared by the connections of a worker.

    Attributes:
        is_draining: whether connections are closed after their response.
        idle: connections without a complete head, the longest idle first.
    """

    def __init__(self, max_connections: int) -> None:
        super().__init__()
        self.max_connections = max_connections
        self.is_draining = False
        self.idle: dict[ServiceProtocol, None] = {}


class ServiceProtocol(HttpToolsProtocol):
    """Serves HTTP/1.1 on a connection, within the limits.

    Records the arrival time of a request's last byte, because under load a request waits for the event loop.
    """

    if TYPE_CHECKING:
        server_state: ConnectionState

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.opened_at = self.loop.time()
        self._phase = ""  # "idle" (before the first byte), "head", "body", or "" while a request is answered
        self._head_bytes = self._header_bytes = 0
        self._is_refused = False
        self._read_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        state = self.server_state
        if len(self.connections) > state.max_connections:
            oldest = next(iter(state.idle), self)  # itself where all others are in a request
            oldest.transport.close()
            state.idle.pop(oldest, None)
        state.idle[self] = None
        self._phase = "idle"
        self._limit_reading(IDLE_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server_state.idle.pop(self, None)
        for timer in (self._read_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        phase = self._phase
        if phase != "body":
            self._phase = "head"
            self._head_bytes += len(data)
        super().data_received(data)
        if self._phase == "head" and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
        if self._phase != phase and not self._is_refused:
            self._limit_reading({"head": HEAD_TIMEOUT, "body": BODY_TIMEOUT}.get(self._phase))

    def on_message_begin(self) -> None:
        self._phase, self._header_bytes = "head", 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._header_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
            raise TooLargeHead  # ends the parser
        self._phase, self._head_bytes = "body", 0
        super().on_headers_complete()
        if self.cycle is not None:
            self.server_state.idle.pop(self, None)
            if self.server_state.is_draining:
                self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self.scope["arrival_time"] = time.perf_counter()  # type: ignore[typeddict-unknown-key]
        self._phase, self._head_bytes = "", 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self.server_state.idle[self] = None

    def close_after_response(self) -> None:
        """Close the connection after the response to its current request; without a request do nothing."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        if not self._is_refused:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _limit_reading(self, seconds: float | None) -> None:
        """End the current phase after `seconds`; None for no limit."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, self._on_read_timeout)

    def _on_read_timeout(self) -> None:
        if self._phase == "head":
            self._refuse(408, f"the headers did not arrive in {HEAD_TIMEOUT} s")
        else:
            self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(431, f"send at most {MAX_HEAD_BYTES:,} bytes of headers")

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, and close the connection when the client has had time to read the answer."""
        self._is_refused = True
        self._limit_reading(None)
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # the response of an earlier request is under way
            return
        title = HTTPStatus(status).phrase
        body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
        self.transport.write(
            f"HTTP/1.1 {status} {title}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        if self.transport.can_write_eof():
            self.transport.write_eof()
        # Closing at once would reset the connection, and the client might not read the answer.
        self._read_timer = self.loop.call_later(LINGER_TIMEOUT, self.transport.abort)
