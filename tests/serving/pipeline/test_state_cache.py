"""Caches return results of the same state only, and are bounded."""

import gc
import math
import tracemalloc
from dataclasses import replace

from serving import Checkout, Event, Recommender
from serving.pipeline.frequency import FrequencyCap
from serving.pipeline.state_cache import ENTRY_BYTES, LRUCache, filter_fingerprint

LONG_MS = 60_000.0  # nothing is late


def broken(*_: object) -> None:
    raise RuntimeError("out of order")


def test_the_same_state_is_ranked_once(recommender: Recommender, user_checkout: Checkout) -> None:
    first = recommender.recommend(user_checkout, LONG_MS)
    recommender.bundle = replace(recommender.bundle, ranker=broken, query_tower=broken)
    second = recommender.recommend(user_checkout, LONG_MS)
    assert second.items == first.items
    assert (second.tier, second.reason, recommender.slate_cache.hits) == ("ranked", "", 1)
    assert second.request_id != first.request_id
    assert "ranker" not in second.timings


def test_another_state_is_another_slate(recommender: Recommender, user_checkout: Checkout) -> None:
    recommender.recommend(user_checkout, LONG_MS)
    ts = user_checkout.ts or 0
    variants = [
        replace(user_checkout, ts=ts + 120),
        replace(user_checkout, basket=user_checkout.basket[:-1]),
        replace(user_checkout, history=[Event("i001", ts - 5)]),
        replace(user_checkout, exclude=["i001"]),
        replace(user_checkout, categories=["food"]),
    ]
    for variant in variants:
        recommender.recommend(variant, LONG_MS)
    recommender.recommend(user_checkout, LONG_MS, revenue_weight=0.0)
    assert recommender.slate_cache.hits == 0
    assert recommender.query_vector_cache.hits == 3  # filters and policy change no query vector
    assert len(recommender.slate_cache) == 7


def test_a_failing_pipeline_shows_the_users_last_slate(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    user_checkout = replace(user_checkout, order_id="o1")
    first = recommender.recommend(user_checkout, LONG_MS)
    recommender.feature_encoder.encode_arrays = broken  # type: ignore[method-assign]
    cached = recommender.recommend(user_checkout, LONG_MS)
    assert cached.tier == "cached"
    assert [item.item_id for item in cached.items] == [item.item_id for item in first.items]
    without = recommender.recommend(replace(user_checkout, exclude=[first.items[0].item_id]), LONG_MS)
    assert without.tier == "cached"
    assert first.items[0].item_id not in {item.item_id for item in without.items}
    assert recommender.recommend(replace(user_checkout, user_id="u002"), LONG_MS).tier == "category"


def test_a_users_last_slate_obeys_the_frequency_cap(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    """Two orders see it, each as often as its page is loaded; the third sees other items."""
    recommender.policy = replace(recommender.policy, frequency_cap=FrequencyCap(2))

    def items(order_id: str) -> tuple[str, set[str]]:
        slate = recommender.recommend(replace(user_checkout, order_id=order_id), LONG_MS)
        return slate.tier, {item.item_id for item in slate.items}

    _, first = items("o1")
    recommender.feature_encoder.encode_arrays = broken  # type: ignore[method-assign]
    assert items("o1") == items("o2") == items("o2") == ("cached", first)
    tier, third = items("o3")
    assert (tier, len(third)) == ("category", 6)
    assert not third & first
    assert items("o3")[1] == third


def test_verified_and_degraded_slates_are_not_cached(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    recommender.recommend(user_checkout, math.inf)
    assert len(recommender.slate_cache) == len(recommender.last_slates) == 0
    recommender.store.get = broken  # type: ignore[union-attr, method-assign, assignment]
    recommender.recommend(user_checkout, LONG_MS)
    assert len(recommender.slate_cache) == len(recommender.last_slates) == 0


def test_the_oldest_goes_first() -> None:
    cache: LRUCache[int] = LRUCache(2, 10_000, lambda _: 0)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    assert (cache.hits, cache.misses, len(cache)) == (3, 1, 2)


def test_bytes_are_bounded() -> None:
    cache: LRUCache[bytes] = LRUCache(1_000, 10 * (ENTRY_BYTES + 100), len)
    for number in range(50):
        cache.put(number, bytes(100))
    assert (len(cache), cache.n_bytes) == (10, cache.max_bytes)
    cache.put(49, bytes(50))  # in place of the same key's
    assert (len(cache), cache.n_bytes) == (10, cache.max_bytes - 50)
    cache.put(50, bytes(100_000))  # more than all
    assert (len(cache), cache.n_bytes) == (0, 0)


def test_filters_have_a_fingerprint() -> None:
    assert filter_fingerprint([], None, ()) == b""
    fingerprint = filter_fingerprint(["b", "a"], ["x"], (3,))
    assert fingerprint == filter_fingerprint(["a", "b", "a"], ["x", "x"], [3])
    others = [(["a"], ["x"], (3,)), (["a", "b"], None, (3,)), (["a", "b"], [], (3,)), (["a, b"], ["x"], (3,))]
    assert len({fingerprint, *(filter_fingerprint(*other) for other in others)}) == 5


def test_requests_with_long_lists_take_little_memory(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    """20,000 users with 5,000 excluded items each: below 5 kB a user, 100 MB in all."""
    n_users = 40

    def recommend(number: int) -> None:
        exclude = [f"item-{number}-{k}" for k in range(5_000)]
        checkout = replace(
            user_checkout, user_id=f"u{number}" * 1_000, order_id=f"o{number}" * 1_000, exclude=exclude
        )
        assert recommender.recommend(checkout, LONG_MS).tier == "ranked"

    recommend(-1)
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for number in range(n_users):
            recommend(number)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(recommender.last_slates) > n_users
    assert grown / n_users < 5_000
