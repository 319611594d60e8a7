"""A shopper who clicks nothing is shown other items, over HTTP and from the store's memory."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import Checkout, Line, open_store
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.pipeline.frequency import count_impressions
from serving.stores.impressions import ShownSlate
from tests.serving.http.services import Client, serving, until

SLATES, FEEDBACK = "/v1/recommendations", "/v1/feedback"
LONG = 60_000.0  # ms: a busy machine must not change what is answered
NOW = 1_711_000_000
VISITS = 8


@pytest.fixture(scope="module")
def client(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """With an empty store and a log; the bundle caps at 2 times in 14 days."""
    folder = tmp_path_factory.mktemp("frequency")
    settings = Settings(version.parent, str(folder / "store"), folder / "log", deadline_ms=LONG)
    store = open_store(folder / "store", read_timeout=60.0, write_timeout=60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.pipeline.store_read.STORE_TIMEOUT_MS", LONG)
        with serving(create_app(settings, store)) as started:
            yield started


def visit(client: Client, user: str | None, order: int, **fields: Any) -> list[str]:
    """The items that a user is shown after an order, an hour after the one before."""
    ts, order_id = NOW + 3600 * order, f"{user} {order}"
    request = {"user_id": user, "basket": [{"item_id": "i001"}], "ts": ts, "order_id": order_id}
    response = client.post(SLATES, request | fields)
    assert response.status_code == 200, response.text
    client.service.impression_writer.flush()
    return [item["item_id"] for item in response.json()["items"]]


def test_eight_checkouts_without_a_click_show_24_items(client: Client) -> None:
    slates = [visit(client, "visitor", order) for order in range(VISITS)]
    assert {len(set(slate)) for slate in slates} == {6}
    shown = [item for slate in slates for item in slate]
    assert len(set(shown)) >= 24
    assert max(map(shown.count, shown)) == 2
    # The cap is what moves the slate on: a guest has no memory.
    guest = {item for order in range(VISITS) for item in visit(client, None, order)}
    assert len(guest) < 24
    assert client.number('sextet_store_impressions_total{outcome="recorded"}') >= VISITS


def test_an_order_asked_for_again_has_the_same_slate(client: Client) -> None:
    """Also after other orders of the user, although its items have reached the cap by then."""
    slates = [visit(client, "reloading", order) for order in range(4)]
    for _ in range(3):
        assert [visit(client, "reloading", order) for order in range(4)] == slates


def test_a_click_resets_the_count(client: Client) -> None:
    first = visit(client, "clicking", 0)
    clicked, second = first[0], visit(client, "clicking", 1)
    ignored = (set(first) & set(second)) - {clicked}
    response = client.post(
        FEEDBACK, {"kind": "click", "user_id": "clicking", "item_id": clicked, "ts": NOW + 3600 + 60}
    )
    assert response.status_code == 202
    deadline = time.monotonic() + 60
    while not len(client.service.store.get("clicking").ts):  # nobody waits for the write
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ts, cap = NOW + 2 * 3600, client.service.recommender().policy.frequency_cap
    counts = count_impressions(
        cap, Checkout("clicking", [Line("i001")], ts), client.service.store.get("clicking"), ts
    )
    assert clicked not in counts
    assert {counts[item].n_orders for item in ignored} == {2}, "shown twice"
    assert not ignored & set(visit(client, "clicking", 2))


def test_six_items_also_where_all_have_been_shown(client: Client) -> None:
    """The least shown give way first."""
    recommender, store = client.service.recommender(), client.service.store
    available = np.flatnonzero(recommender.bundle.available)
    ids = [recommender.slate_builder.item_id[row] for row in available.tolist()]
    least = [item for item in ids if item != "i001"][-6:]
    often = [item for item in ids if item not in least]
    for order, items in enumerate((ids, ids, often)):
        store.append_impressions("regular", ShownSlate(f"r{order}", NOW - 60, tuple(items)))
    assert set(visit(client, "regular", 0)) == set(least)


def test_a_store_that_fails_costs_no_slate(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = 'sextet_store_impressions_total{outcome="failed"}'
    before = client.number(failed)
    store = client.service.store
    other = open_store(store.path)
    other.close()
    monkeypatch.setattr(client.service.impression_writer, "_store", other)  # a closed store raises
    assert len(visit(client, "unlucky", 0)) == 6
    assert client.number(failed) == before + 1


def test_a_bundle_without_a_cap_writes_nothing(client: Client) -> None:
    recommender = client.service.recommender()
    capped = recommender.policy
    recommender.policy = replace(capped, frequency_cap=None)
    try:
        slates = [visit(client, "uncapped", order) for order in range(4)]
    finally:
        recommender.policy = capped
    shown = [item for slate in slates for item in slate]
    assert max(map(shown.count, shown)) > 2
    assert client.service.store.get("uncapped").impressions == ()


def test_with_viewed_impressions_only_slates_on_screen_count(version: Path, tmp_path: Path) -> None:
    """A page that loads slates ahead shows an item again until it was on screen twice."""
    settings = Settings(
        version.parent, str(tmp_path / "store"), log=tmp_path / "log", deadline_ms=LONG, impressions="viewed"
    )
    store = open_store(tmp_path / "store", read_timeout=60.0, write_timeout=60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.pipeline.store_read.STORE_TIMEOUT_MS", LONG)
        with serving(create_app(settings, store)) as client:
            slates = [visit(client, "visitor", order) for order in range(5)]
            always = set.intersection(*map(set, slates))
            assert always  # five times, and the cap is two
            for order in range(2):
                seen = {"kind": "viewed", "request_id": "r", "item_id": slates[0][0], "user_id": "visitor"}
                response = client.post(FEEDBACK, seen | {"order_id": f"visitor {order}"})
                assert response.status_code == 202
            until(lambda: len(store.get("visitor").impressions) == 7)
            assert not {*visit(client, "visitor", 5)} & always


def test_views_are_no_impressions_where_all_served_slates_count(client: Client) -> None:
    slate = visit(client, "viewer", 0)
    seen = {"kind": "viewed", "request_id": "r", "item_id": slate[0], "user_id": "viewer"}
    assert client.post(FEEDBACK, seen).status_code == 202
    refused = client.post(FEEDBACK, {name: seen[name] for name in ("kind", "item_id", "user_id")})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/request_id"
    assert client.number('sextet_feedback_total{kind="viewed",shown="unknown"}') >= 1
    assert len(client.service.store.get("viewer").impressions) == 1
