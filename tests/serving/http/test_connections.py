"""Connections that are idle, slow or too large hold nobody up, and are closed in time."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import uvicorn

from serving.http import connections
from serving.http.app import create_app
from serving.http.connections import MAX_HEAD_BYTES, ConnectionState, ServiceProtocol
from serving.http.listeners import Listeners, bind_sockets
from serving.http.settings import Settings
from tests.serving.http.services import ROOT, until

PROBE = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_PROBE = PROBE[:-2] + b"Connection: close\r\n\r\n"


class Loop:
    """An application behind real sockets, in a thread of this process."""

    def __init__(self, version: Path, max_connections: int) -> None:
        self.config = uvicorn.Config(
            create_app(Settings(version.parent)), http=ServiceProtocol, ws="none", access_log=False
        )
        self.config.load()
        self.state = ConnectionState(max_connections)
        ((*self.sockets,),) = bind_sockets("127.0.0.1", 0, 1)
        self.port = self.sockets[0].getsockname()[1]
        self.loop = self.config.get_loop_factory()()
        self.listeners = Listeners(self.sockets, [], lambda: ServiceProtocol(self.config, self.state, {}))
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self.listeners.open(), self.loop).result(60)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.listeners.close(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)


@contextmanager
def listening(version: Path, max_connections: int = 10_000) -> Iterator[Loop]:
    started = Loop(version, max_connections)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def service(version: Path) -> Iterator[Loop]:
    with listening(version) as started:
        yield started


def answer(connection: socket.socket) -> bytes:
    """All that is sent until the connection is closed."""
    received = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def probe(service: Loop) -> bytes:
    with service.connect() as connection:
        connection.sendall(PROBE)
        return connection.recv(65536)


def test_idle_connections_give_way(version: Path) -> None:
    """With room for 100, 1,100 that send nothing, or half a request, keep no probe waiting."""
    with listening(version, 100) as service, ExitStack() as stack:
        for number in range(1_100):
            connection = stack.enter_context(service.connect())
            if number % 2:
                connection.sendall(PROBE[:20])
            if number % 100 == 50:
                assert probe(service).startswith(b"HTTP/1.1 200")
        assert probe(service).startswith(b"HTTP/1.1 200")
        until(lambda: len(service.state.connections) <= 100)
    until(lambda: not service.state.idle)


def test_connections_fit_the_limit_of_open_files() -> None:
    """The process takes what it may, and leaves some for its store and log."""
    script = """
import resource
from serving.http.connections import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    n_connections, soft, hard = map(int, done.stdout.split())
    assert (soft, hard) == (1024, 1024)
    assert 800 < n_connections <= 1024 - 64


def test_a_kept_connection_in_use_is_not_closed_for_another(version: Path) -> None:
    with listening(version, 10) as service, ExitStack() as stack:
        kept = stack.enter_context(service.connect())
        for _ in range(30):
            kept.sendall(PROBE)
            assert kept.recv(65536).startswith(b"HTTP/1.1 200")
            stack.enter_context(service.connect())


@pytest.mark.parametrize("head", [
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 20_000_000,  # a value that does not end
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: x\r\n" * 3_000_000,
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",  # at once, and complete
    b"GET /" + b"x" * 20_000_000,
    b"\r\n" * 10_000_000,  # no request at all
])  # fmt: skip
def test_large_headers_are_refused(service: Loop, head: bytes) -> None:
    with service.connect() as connection:
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(head)
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 431")
    assert json.loads(told.partition(b"\r\n\r\n")[2])["status"] == 431
    assert probe(service).startswith(b"HTTP/1.1 200")


def test_large_bodies_and_many_requests_at_once_are_no_headers(service: Loop) -> None:
    body = b"POST /v1/feedback HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    body += b"Content-Length: 200000\r\n\r\n"
    with service.connect() as connection:
        connection.sendall(body + b" " * 200_000 + 2_000 * PROBE + LAST_PROBE)
        told = answer(connection)
    assert told.startswith(b"HTTP/1.1 501")
    assert told.count(b"HTTP/1.1 200") == 2_001


def test_headers_have_a_time_in_all(service: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then does not extend it; nor does a body that nobody reads."""
    monkeypatch.setattr(connections, "HEAD_TIMEOUT", 0.5)
    monkeypatch.setattr(connections, "BODY_TIMEOUT", 0.5)
    with service.connect() as connection:
        start = time.monotonic()
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < start + 30:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - start < 20
        assert answer(connection).startswith((b"HTTP/1.1 408", b"HTTP/1.1 400"))
    with service.connect() as connection:
        connection.sendall(PROBE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(ConnectionResetError, BrokenPipeError):
            while time.monotonic() < start + 60:
                connection.sendall(b"1\r\nx\r\n")
                time.sleep(0.05)
        assert time.monotonic() - start < 40
