"""Stages that stall or fail: six items inside the deadline, the right reason, and recovery without help.

No test measures time. A caller that did not wait for a stalled stage is one that answered before the stage
returned.
"""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving import Checkout, Recommender, Slate
from serving.recommender import STAGES
from serving.resilience.circuit_breaker import CircuitBreaker
from serving.resilience.runtime import set_single_thread
from serving.resilience.thread_pool import ThreadPool
from tests.serving.http.services import Slow, until
from tests.serving.resilience.clock import ManualClock

DEADLINE_MS = 400.0
STORE_TIMEOUT_MS = 100.0  # instead of 20, for a busy machine


class Stalled:
    """A stage that returns only after `release`."""

    def __init__(self, stage: Any) -> None:
        self.stage, self._released = stage, threading.Event()
        self.calls = self.returns = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self._released.wait(60.0)
        self.returns += 1
        return self.stage(*arguments)

    def release(self) -> None:
        self._released.set()


@pytest.fixture(autouse=True)
def long_store_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.pipeline.store_read.STORE_TIMEOUT_MS", STORE_TIMEOUT_MS)


@pytest.fixture
def stall(recommender: Recommender) -> Iterator[Callable[[str], Stalled]]:
    """Replaces a stage by one that stalls; all are released when the test ends."""
    stalled_stages: list[Stalled] = []

    def stall_stage(stage: str) -> Stalled:
        if stage == "store":
            stalled = Stalled(recommender.store.get)
            recommender.store.get = stalled  # type: ignore[union-attr, method-assign]
        elif stage == "index":
            stalled = Stalled(recommender.bundle.index.search)
            recommender.bundle.index.search = stalled  # type: ignore[method-assign]
        elif stage == "encode":
            stalled = Stalled(recommender.feature_encoder.encode_arrays)
            recommender.feature_encoder.encode_arrays = stalled  # type: ignore[method-assign]
        else:
            stalled = Stalled(getattr(recommender.bundle, stage))
            recommender.bundle = replace(recommender.bundle, **{stage: stalled})
        stalled_stages.append(stalled)
        return stalled

    yield stall_stage
    for stalled in stalled_stages:
        stalled.release()


def recommend(recommender: Recommender, checkout: Checkout) -> Slate:
    slate = recommender.recommend(checkout, DEADLINE_MS)
    assert len({item.item_id for item in slate.items}) == 6
    return slate


@pytest.mark.parametrize(
    ("stage", "tier", "tier_when_open"),
    [
        ("store", "ranked", "ranked"),
        ("encode", "category", "category"),
        ("query_tower", "category", "category"),
        ("index", "category", "ranked"),  # without it in time, the other sources propose enough
        ("candidates", "retrieval", "retrieval"),
        ("ranker", "retrieval", "retrieval"),
    ],
)
def test_a_stalled_stage_delays_no_answer_and_opens_its_breaker(
    recommender: Recommender,
    user_checkout: Checkout,
    stall: Any,
    stage: str,
    tier: str,
    tier_when_open: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may start the stage late; here its failure counts all the same.
    monkeypatch.setattr("serving.resilience.deadline.STALL_FRACTION", 0.0)
    stalled, breaker, clock = stall(stage), recommender.stage_stats.breakers[stage], ManualClock()
    breaker.clock, breaker.reset_timeout = clock, 100.0
    for failures in range(1, breaker.failure_threshold + 1):
        clock.now += 10.0
        slate = recommend(recommender, user_checkout)
        assert slate.tier == tier
        assert f"{stage}: not done after" in slate.reason
        assert (stalled.calls, stalled.returns) == (failures, 0)
    slate = recommend(recommender, user_checkout)
    assert stalled.calls == breaker.failure_threshold
    assert slate.tier == tier_when_open
    assert f"{stage}: circuit open after 3 failures in a row" in slate.reason
    stalled.release()
    until(lambda: breaker.abandoned == 0)
    clock.now += breaker.reset_timeout
    slate = recommend(recommender, user_checkout)
    assert (slate.tier, slate.reason) == ("ranked", "")
    assert breaker.failures == 0


def test_stores_that_hang_for_good_leave_threads_for_other_requests(
    recommender: Recommender, user_checkout: Checkout, stall: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When store reads hold every thread of their pool, requests are ranked without a history."""
    monkeypatch.setattr("serving.recommender.MAX_THREADS", 2)
    recommender.store_pool = ThreadPool(2, "store", set_single_thread)
    breaker = recommender.stage_stats.breakers["store"]
    breaker.failure_threshold = 99  # never opens
    stalled = stall("store")
    for hanging in (1, 2):
        slate = recommend(recommender, user_checkout)
        assert slate.tier == "ranked"
        assert slate.reason.startswith("store: not done after")
        assert breaker.abandoned == hanging
    slate = recommend(recommender, user_checkout)
    assert (slate.tier, slate.reason) == ("ranked", "store: 2 calls have not returned")
    assert (stalled.calls, stalled.returns) == (2, 0)
    stalled.release()
    until(lambda: breaker.abandoned == 0)
    assert recommend(recommender, user_checkout).reason == ""


def test_requests_that_get_no_store_thread_are_ranked_without_a_history(
    recommender: Recommender, user_checkout: Checkout, stall: Any
) -> None:
    recommender.store_pool = ThreadPool(1, "store", set_single_thread)
    stall("store")
    with ThreadPoolExecutor(3) as clients:
        slates = list(clients.map(lambda _: recommender.recommend(user_checkout, 10 * DEADLINE_MS), range(3)))
    assert {slate.tier for slate in slates} == {"ranked"}
    assert sorted(slate.reason.split(" for ")[0].split(" after ")[0] for slate in slates) == [
        "no thread was free", "no thread was free", "store: not done",
    ]  # fmt: skip
    assert recommender.stage_stats.breakers["store"].failures == 1


def test_a_hanging_store_keeps_no_bundle(version: Path, user_checkout: Checkout) -> None:
    release = threading.Event()
    store: Any = SimpleNamespace(get=lambda _: release.wait(60.0))
    recommender = Recommender.load(version, store)
    recommender.store_pool.submit(lambda: None).wait()
    assert recommender.recommend(user_checkout, DEADLINE_MS).reason.startswith("store: not done")
    bundle = weakref.ref(recommender.bundle)
    del recommender
    until(lambda: gc.collect() >= 0 and bundle() is None)
    release.set()


def test_a_guests_slate_does_not_depend_on_the_store(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    recommender.stage_stats.breakers["store"].abandoned = 1_000
    assert recommend(recommender, replace(user_checkout, user_id=None)).reason == ""
    assert recommend(recommender, user_checkout).reason == "store: 1000 calls have not returned"


def test_only_the_store_has_the_stores_timeout(recommender: Recommender, user_checkout: Checkout) -> None:
    ranker = Slow(recommender.bundle.ranker, 1.5e-3 * STORE_TIMEOUT_MS)
    recommender.bundle = replace(recommender.bundle, ranker=ranker)
    slate = recommend(recommender, user_checkout)
    assert (slate.tier, slate.reason) == ("ranked", "")


def test_a_raising_stage_opens_its_breaker_and_comes_back(
    recommender: Recommender, user_checkout: Checkout
) -> None:
    ranker, is_broken = recommender.bundle.ranker, [True]

    def failing(*arguments: Any) -> Any:
        if is_broken[0]:
            raise RuntimeError("out of order")
        return ranker(*arguments)

    def next_reason() -> str:
        clock.now += 1.0
        return recommend(recommender, user_checkout).reason

    recommender.bundle = replace(recommender.bundle, ranker=failing)
    breaker, clock = recommender.stage_stats.breakers["ranker"], ManualClock()
    breaker.clock, breaker.reset_timeout = clock, 100.0
    assert [next_reason() for _ in range(3)] == ["ranker: RuntimeError: out of order"] * 3
    assert [next_reason() for _ in range(2)] == ["ranker: circuit open after 3 failures in a row"] * 2
    clock.now += 100.0
    assert next_reason() == "ranker: RuntimeError: out of order"  # one request tries
    is_broken[0] = False
    assert "circuit open" in next_reason()
    clock.now += 100.0
    assert next_reason() == ""


def test_a_store_that_returns_garbage(recommender: Recommender, user_checkout: Checkout) -> None:
    recommender.store.get = lambda user_id: {"garbage": user_id}  # type: ignore[union-attr, method-assign, return-value, assignment]
    slate = recommend(recommender, user_checkout)
    assert slate.tier == "ranked"
    assert slate.reason == "store: get() returned a dict, expected a UserHistory"


def test_more_requests_than_the_machine_can_rank(recommender: Recommender, user_checkout: Checkout) -> None:
    """Each gets six items; those that cannot be ranked in time fall back and say why."""
    recommender.bundle = replace(recommender.bundle, ranker=Slow(recommender.bundle.ranker, 0.04))
    with ThreadPoolExecutor(16) as clients:
        slates = list(clients.map(lambda _: recommender.recommend(user_checkout, 100.0), range(160)))
    assert all(len({item.item_id for item in slate.items}) == 6 for slate in slates)
    assert all(slate.reason for slate in slates if slate.tier != "ranked")
    until(lambda: recommend(recommender, user_checkout).tier == "ranked")


def test_a_request_that_waited_has_less_time(recommender: Recommender, user_checkout: Checkout) -> None:
    slate = recommender.recommend(user_checkout, DEADLINE_MS, start_time=time.perf_counter() - 1)
    assert slate.tier in ("category", "popularity")
    assert slate.timings["total"] > 1000


def test_a_breaker() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(failure_threshold=2, reset_timeout=1.0, clock=clock)
    assert breaker.allow_request()
    breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    assert breaker.allow_request()
    breaker.record_failure()
    assert not breaker.allow_request()
    clock.now = 1.5
    assert breaker.allow_request()
    assert not breaker.allow_request()  # one tries, the others wait for its result
    breaker.record_failure()
    clock.now = 2.0
    assert not breaker.allow_request()
    clock.now = 2.6
    assert breaker.allow_request()
    breaker.record_success()
    assert breaker.allow_request()
    assert breaker.allow_request()


def test_a_breaker_counts_one_cause_once_and_waits_for_abandoned_calls() -> None:
    clock = ManualClock()
    breaker = CircuitBreaker(failure_threshold=2, reset_timeout=1.0, clock=clock)
    for _ in range(5):
        clock.now += 0.01
        breaker.record_failure(duration_s=0.5)  # each overlaps the first failure
    assert breaker.failures == 1
    breaker.record_abandoned()
    clock.now = 1.0
    breaker.record_failure(duration_s=0.5)
    clock.now = 9.0
    assert not breaker.allow_request()  # a thread has not returned
    breaker.record_returned()
    assert breaker.allow_request()


def test_a_stage_that_hangs_for_good_costs_one_thread_a_failure(
    recommender: Recommender, user_checkout: Checkout, stall: Any
) -> None:
    stalled, clock = stall("ranker"), ManualClock()
    breaker = recommender.stage_stats.breakers["ranker"]
    breaker.clock, breaker.reset_timeout = clock, 1.0
    for _ in range(3):
        clock.now += 10.0
        recommend(recommender, user_checkout)
    for _ in range(10):
        clock.now += 10.0
        assert "circuit open" in recommend(recommender, user_checkout).reason
    assert stalled.calls == 3


def test_every_stage_has_a_breaker(recommender: Recommender) -> None:
    assert set(recommender.stage_stats.breakers) == set(STAGES) == set(recommender.stage_stats.expected_ms)
