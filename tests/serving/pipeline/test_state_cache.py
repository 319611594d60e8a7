"""What was worked out before is found again, by its state alone, and is bounded."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from serving import Checkout, Event, Recommender
from serving.pipeline.state_cache import LRUCache
from serving.storage.golden_requests import read_golden_requests

LONG = 60_000.0  # milliseconds: nothing is late


@pytest.fixture
def mine(version: Path) -> Recommender:
    return Recommender.load(version, version.parent / "store.arrow")


@pytest.fixture
def checkout(mine: Recommender) -> Checkout:
    return replace(read_golden_requests(mine.bundle)[0][0], user_id="u001", history=None)


def broken(*_: object) -> None:
    raise RuntimeError("out of order")


def test_the_same_state_is_ranked_once(mine: Recommender, checkout: Checkout) -> None:
    first = mine.recommend(checkout, LONG)
    mine.bundle = replace(mine.bundle, ranker=broken, query_tower=broken)
    again = mine.recommend(checkout, LONG)
    assert again.items == first.items
    assert (again.tier, again.reason, mine.slate_cache.hits) == ("ranked", "", 1)
    assert again.request_id != first.request_id
    assert "ranker" not in again.timings


def test_another_state_is_another_slate(mine: Recommender, checkout: Checkout) -> None:
    mine.recommend(checkout, LONG)
    ts = checkout.ts or 0
    others = [
        replace(checkout, ts=ts + 120),
        replace(checkout, basket=checkout.basket[:-1]),
        replace(checkout, history=[Event("i001", ts - 5)]),
        replace(checkout, exclude=["i001"]),
        replace(checkout, categories=["food"]),
    ]
    for other in others:
        mine.recommend(other, LONG)
    mine.recommend(checkout, LONG, revenue_weight=0.0)
    assert mine.slate_cache.hits == 0
    assert mine.query_vector_cache.hits == 3  # what may be shown changes no query vector
    assert len(mine.slate_cache) == 7


def test_a_failing_pipeline_shows_the_users_last_slate(mine: Recommender, checkout: Checkout) -> None:
    first = mine.recommend(checkout, LONG)
    mine.feature_encoder.encode_arrays = broken  # type: ignore[method-assign]
    shown = mine.recommend(checkout, LONG)
    assert shown.tier == "cached"
    assert [item.item_id for item in shown.items] == [item.item_id for item in first.items]
    without = mine.recommend(replace(checkout, exclude=[first.items[0].item_id]), LONG)
    assert without.tier == "cached"
    assert first.items[0].item_id not in {item.item_id for item in without.items}
    assert mine.recommend(replace(checkout, user_id="u002"), LONG).tier == "category"


def test_what_is_verified_or_went_wrong_is_not_kept(mine: Recommender, checkout: Checkout) -> None:
    mine.recommend(checkout, math.inf)
    assert len(mine.slate_cache) == len(mine.last_slate_cache) == 0
    mine.store.get = broken  # type: ignore[union-attr, method-assign, assignment]
    mine.recommend(checkout, LONG)
    assert len(mine.slate_cache) == len(mine.last_slate_cache) == 0


def test_the_oldest_goes_first() -> None:
    cache: LRUCache[int] = LRUCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert (cache.hits, cache.misses, len(cache)) == (3, 1, 2)
