"""What only an embedded store, and a read-only one, can meet."""

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest

from serving import Event, open_store
from serving.stores.sqlite import EmbeddedStore

EVENT = Event("i001", 1)
FORK = multiprocessing.get_context("fork")
PATIENCE = 30  # seconds in which a busy machine does anything that does not wait for ever


def test_readers_do_not_wait_for_a_writer_and_writers_not_for_ever(tmp_path: Path) -> None:
    store = open_store(tmp_path / "events.db", write_timeout=0.2)
    store.append("u", [EVENT])
    writer = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert store.get("u").item_id == ["i001"]
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match=r"events\.db: database is locked"):
        store.append("u", [EVENT])
    assert 0.1 < time.perf_counter() - started < PATIENCE
    writer.execute("ROLLBACK")
    store.append("u", [EVENT])
    assert len(store.get("u").ts) == 2


def test_a_locked_database_stops_a_reader_shortly(tmp_path: Path) -> None:
    """As a tool may lock it, or SQLite itself while it recovers from a crash."""
    store = open_store(tmp_path / "events.db")
    store.append("u", [EVENT])
    store.close()
    writer = sqlite3.connect(tmp_path / "events.db", isolation_level=None)
    writer.execute("PRAGMA locking_mode = EXCLUSIVE")
    writer.execute("BEGIN IMMEDIATE")
    started = time.perf_counter()
    with pytest.raises(TimeoutError, match="database is locked"):
        open_store(tmp_path / "events.db", write_timeout=0.1)
    assert time.perf_counter() - started < PATIENCE
    writer.close()
    assert open_store(tmp_path / "events.db").get("u").item_id == ["i001"]


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "events.db"
    file.write_text("no database at all, " * 100)
    with pytest.raises(
        ValueError, match=r"events\.db is not an event store, or damaged: file is not a database"
    ):
        open_store(file)
    file.unlink()
    sqlite3.connect(file).execute("CREATE TABLE t (x)").connection.close()
    before = file.read_bytes()
    with pytest.raises(ValueError, match="is a database, but no event store of layout 1"):
        open_store(file)
    assert file.read_bytes() == before
    with pytest.raises(FileNotFoundError, match="no such event store"):
        open_store(tmp_path / "nowhere" / "events.db")
    with pytest.raises(FileNotFoundError, match="no such event store"):
        open_store(tmp_path / "new.db", create=False)
    assert not (tmp_path / "new.db").exists()
    with pytest.raises(
        ValueError, match="store ftp://: expected a path, redis, rediss, valkey, valkeys, or the dotted path"
    ):
        open_store("ftp://somewhere")


def test_damage_is_reported(tmp_path: Path) -> None:
    """A byte that changed within a chunk, and pages that are missing."""
    file = tmp_path / "events.db"
    store = open_store(file)
    for k in range(400):
        store.append(f"u{k}", [Event(f"an item to be found {k}", k) for _ in range(10)])
    store.close()
    content = file.read_bytes()
    file.write_bytes(content.replace(b"an item to be found 77", b"an item to be lost! 77"))
    store = open_store(file)
    with pytest.raises(ValueError, match=r"events\.db: user 'u77': a chunk of events is damaged"):
        store.get("u77")
    assert len(store.get("u78").ts) == 10
    store.close()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is not an event store, or damaged"):
        [open_store(file).get(f"u{k}") for k in range(400)]


@pytest.mark.parametrize("durable", [False, True])
def test_how_often_the_disk_is_flushed(tmp_path: Path, durable: bool) -> None:
    store = open_store(tmp_path / "events.db", durable=durable)
    assert isinstance(store, EmbeddedStore)
    with store.file.connection(1.0) as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2 if durable else 1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_exported_store_is_read_only(version: Path) -> None:
    store = open_store(version.parent / "store.arrow")
    assert store.get("u001").item_id
    with pytest.raises(
        ValueError, match=r"store\.arrow is read-only, it was exported\. To do: python -m serving"
    ):
        store.append("u001", [EVENT])
    with pytest.raises(ValueError, match="is read-only"):
        store.append_many(iter([]))
    store.close()


def test_a_forked_process_leaves_the_connections_alone(tmp_path: Path) -> None:
    """SQLite forbids to use them there, or to close them."""
    store = EmbeddedStore(tmp_path / "events.db")
    store.append("u", [EVENT])
    before = list(store.file.idle)

    def child() -> None:
        store.append("u", [EVENT])
        assert store.file.inherited == before
        assert not set(map(id, store.file.idle)) & set(map(id, before))

    process = FORK.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert store.file.idle == before
    assert len(store.get("u").ts) == 2


def test_a_link_that_names_another_file_now(tmp_path: Path) -> None:
    """The file that it named before stays whole, with what is in its write-ahead log."""
    for name in ("first.db", "second.db"):
        store = open_store(tmp_path / name)
        store.append("u", [Event(name, 1)])
        store.close()
    link = tmp_path / "store.db"
    link.symlink_to("first.db")
    linked, direct = open_store(link), open_store(tmp_path / "first.db")
    linked.append("u", [Event("through the link", 2)])
    link.unlink()
    link.symlink_to("second.db")
    linked.append("u", [Event("later", 3)])
    assert linked.get("u").item_id == ["second.db", "later"]
    direct.append("u", [Event("direct", 4)])
    assert direct.get("u").item_id == ["first.db", "through the link", "direct"]


def test_no_write_is_acknowledged_in_a_file_that_is_gone(tmp_path: Path) -> None:
    """Also of a file whose connections are all in use, and of one that is replaced by no store."""
    file = tmp_path / "events.db"
    store = EmbeddedStore(file)
    store.append("u", [EVENT])
    with store.file.connection(1.0):
        file.unlink()
        with pytest.raises(FileNotFoundError, match="was removed while it was open"):
            store.append("u", [EVENT])
        assert not file.exists()
        file.write_text("no database at all, " * 100)
        with pytest.raises(ValueError, match="file is not a database"):
            store.append("u", [EVENT])
        file.unlink()
        spare = open_store(tmp_path / "spare.db")
        spare.append("u", [Event("spare", 1)])
        spare.close()
        (tmp_path / "spare.db").rename(file)
        store.append("u", [Event("new", 2)])
    assert store.get("u").item_id == ["spare", "new"]
    assert open_store(file).get("u").item_id == ["spare", "new"]
    assert len([*tmp_path.glob("events.db-wal.*")]) == 1  # it could not be written into its file
