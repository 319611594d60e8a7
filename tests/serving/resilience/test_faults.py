"""Parts that stall, fail or rest: six items inside the deadline, the right reason, and recovery by itself."""

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

import numpy as np
import pytest

from serving import Checkout, Recommender, Slate, recommender
from serving.recommender import STAGES
from serving.resilience.circuit_breaker import CircuitBreaker
from serving.resilience.deadline import set_single_thread
from serving.resilience.thread_pool import ThreadPool
from serving.storage.golden_requests import read_golden_requests
from tests.serving.http.services import Slow

DEADLINE = 100.0
GRACE = 25.0  # a machine under test does other things, too; the benchmark holds the deadline to 5 ms


class Stalled:
    """A part that waits while it is told to."""

    def __init__(self, part: Any) -> None:
        self.part, self.wait = part, threading.Event()
        self.wait.set()
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        self.wait.wait(2.0)
        return self.part(*arguments)


@pytest.fixture
def mine(version: Path) -> Recommender:
    return Recommender.load(version, version.parent / "store.arrow")


@pytest.fixture
def checkout(mine: Recommender) -> Checkout:
    return replace(read_golden_requests(mine.bundle)[0][0], user_id="u001", history=None)


@pytest.fixture
def stalled(mine: Recommender) -> Iterator[Callable[[str], Stalled]]:
    """Replaces a part by one that stalls; all go on when the test ends."""
    made: list[Stalled] = []

    def replaced(stage: str) -> Stalled:
        if stage == "store":
            part = Stalled(mine.store.get)
            mine.store.get = part  # type: ignore[union-attr, method-assign]
        elif stage == "index":
            part = Stalled(mine.bundle.index.search)
            mine.bundle.index.search = part  # type: ignore[method-assign]
        elif stage == "encode":
            part = Stalled(mine.feature_encoder.encode_arrays)
            mine.feature_encoder.encode_arrays = part  # type: ignore[method-assign]
        else:
            part = Stalled(getattr(mine.bundle, stage))
            mine.bundle = replace(mine.bundle, **{stage: part})
        made.append(part)
        part.wait.clear()
        return part

    yield replaced
    for part in made:
        part.wait.set()


def answered(mine: Recommender, checkout: Checkout) -> Slate:
    started = time.perf_counter()
    slate = mine.recommend(checkout, DEADLINE)
    assert 1e3 * (time.perf_counter() - started) < DEADLINE + GRACE
    assert len({item.item_id for item in slate.items}) == 6
    return slate


@pytest.mark.parametrize(
    ("stage", "tier", "after"),
    [
        ("store", "ranked", "ranked"),
        ("encode", "category", "category"),
        ("query_tower", "category", "category"),
        ("index", "category", "ranked"),  # the other sources know enough once it rests
        ("candidates", "retrieval", "retrieval"),
        ("ranker", "retrieval", "retrieval"),
    ],
)
def test_a_stalled_stage_costs_no_answer_its_deadline_and_then_rests(
    mine: Recommender, checkout: Checkout, stalled: Any, stage: str, tier: str, after: str
) -> None:
    part, breaker = stalled(stage), mine.stage_stats.breakers[stage]
    breaker.reset_timeout = 0.3
    for _ in range(breaker.failure_threshold):
        slate = answered(mine, checkout)
        assert slate.tier == tier
        assert f"{stage}: not done after" in slate.reason
    tried = part.calls
    started = time.perf_counter()
    slate = answered(mine, checkout)
    assert part.calls == tried
    assert slate.tier == after
    assert f"{stage}: it failed 3 times in a row and rests" in slate.reason
    assert 1e3 * (time.perf_counter() - started) < DEADLINE / 2  # nobody waits for what rests
    part.wait.set()
    time.sleep(breaker.reset_timeout)
    slate = answered(mine, checkout)
    assert (slate.tier, slate.reason) == ("ranked", "")
    assert breaker.failures == breaker.abandoned == 0


def test_stores_that_hang_for_good_leave_threads_for_the_rest(
    mine: Recommender, checkout: Checkout, stalled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When every thread that asks is lost, requests are ranked without a history, at once."""
    monkeypatch.setattr(recommender, "THREADS", 2)
    mine.store_pool = ThreadPool(2, "asking", set_single_thread)
    mine.stage_stats.breakers["store"].failure_threshold = 99  # never rests
    part = stalled("store")
    for lost in (1, 2):
        slate = answered(mine, checkout)
        assert slate.tier == "ranked"
        assert slate.reason.startswith("store: not done after 2")
        assert mine.stage_stats.breakers["store"].abandoned == lost
    started = time.perf_counter()
    slate = answered(mine, checkout)
    assert (slate.tier, slate.reason) == ("ranked", "store: 2 calls have not returned")
    assert 1e3 * (time.perf_counter() - started) < DEADLINE / 2
    part.wait.set()
    while mine.stage_stats.breakers["store"].abandoned:
        time.sleep(0.001)
    assert answered(mine, checkout).reason == ""


def test_who_waits_for_a_thread_that_asks_goes_on_without_a_history(
    mine: Recommender, checkout: Checkout, stalled: Any
) -> None:
    """Many at once meet a store that hangs: those that no thread takes are ranked, too."""
    mine.store_pool = ThreadPool(1, "asking", set_single_thread)
    stalled("store")
    with ThreadPoolExecutor(3) as clients:
        slates = list(clients.map(lambda _: mine.recommend(checkout, 10 * DEADLINE), range(3)))
    assert {slate.tier for slate in slates} == {"ranked"}
    assert sorted(slate.reason.split(" for ")[0].split(" after ")[0] for slate in slates) == [
        "no thread was free", "no thread was free", "store: not done",
    ]  # fmt: skip
    assert mine.stage_stats.breakers["store"].failures == 1


def test_a_store_that_hangs_keeps_no_bundle(version: Path, checkout: Checkout) -> None:
    gone, part = threading.Event(), threading.Event()
    store = SimpleNamespace(get=lambda _: part.wait(5.0))
    loaded = Recommender.load(version, store)
    loaded.store_pool.submit(lambda: None).wait()
    assert loaded.recommend(checkout, DEADLINE).reason.startswith("store: not done")
    weakref.finalize(loaded.bundle, gone.set)
    del loaded
    gc.collect()
    assert gone.is_set()
    part.set()


def test_a_guest_is_told_nothing_of_the_store(mine: Recommender, checkout: Checkout) -> None:
    mine.stage_stats.breakers["store"].abandoned = 1_000
    assert mine.recommend(replace(checkout, user_id=None), DEADLINE).reason == ""
    assert mine.recommend(checkout, DEADLINE).reason == "store: 1000 calls have not returned"


def test_a_slow_machine_is_not_taken_for_a_slow_store(mine: Recommender, checkout: Checkout) -> None:
    """Only the store is held to its own time: what comes behind it may take longer."""
    mine.bundle = replace(mine.bundle, ranker=Slow(mine.bundle.ranker, 0.03))
    slate = answered(mine, checkout)
    assert (slate.tier, slate.reason) == ("ranked", "")


def test_a_part_that_throws_rests_and_comes_back(mine: Recommender, checkout: Checkout) -> None:
    ranker, broken = mine.bundle.ranker, {"now": True}

    def failing(*arguments: Any) -> Any:
        if broken["now"]:
            raise RuntimeError("out of order")
        return ranker(*arguments)

    mine.bundle = replace(mine.bundle, ranker=failing)
    mine.stage_stats.breakers["ranker"].reset_timeout = 0.2
    reasons = [answered(mine, checkout).reason for _ in range(5)]
    assert reasons[:3] == ["ranker: RuntimeError: out of order"] * 3
    assert reasons[3:] == ["ranker: it failed 3 times in a row and rests"] * 2
    time.sleep(0.2)
    assert answered(mine, checkout).reason == "ranker: RuntimeError: out of order"  # the one that tries
    broken["now"] = False
    assert "rests" in answered(mine, checkout).reason
    time.sleep(0.2)
    assert answered(mine, checkout).tier == "ranked"


def test_a_store_that_returns_garbage(mine: Recommender, checkout: Checkout) -> None:
    mine.store.get = lambda user_id: {"what": user_id}  # type: ignore[union-attr, method-assign, return-value, assignment]
    slate = answered(mine, checkout)
    assert slate.tier == "ranked"
    assert slate.reason == "store: it gave a dict, not Facts"


def test_twice_as_many_as_the_machine_can_rank(mine: Recommender, checkout: Checkout) -> None:
    """Every request is answered in time; what cannot be ranked any more falls back."""
    mine.bundle = replace(mine.bundle, ranker=Slow(mine.bundle.ranker, 0.04))
    taken: list[float] = []

    def one(_: int) -> Slate:
        started = time.perf_counter()
        slate = mine.recommend(checkout, DEADLINE)
        taken.append(1e3 * (time.perf_counter() - started))
        return slate

    with ThreadPoolExecutor(16) as clients:
        slates = list(clients.map(one, range(160)))
    assert all(len({item.item_id for item in slate.items}) == 6 for slate in slates)
    assert np.percentile(taken, 90) < DEADLINE + 2 * GRACE
    started = time.perf_counter()
    while answered(mine, checkout).tier != "ranked":  # the last of the crowd may still be at work
        assert time.perf_counter() - started < 1.5


def test_a_request_that_waited_has_less_time(mine: Recommender, checkout: Checkout) -> None:
    slate = mine.recommend(checkout, DEADLINE, start_time=time.perf_counter() - 1)
    assert slate.tier in ("category", "popularity")
    assert slate.timings["total"] > 1000


def test_a_breaker() -> None:
    now = [0.0]
    breaker = CircuitBreaker(failure_threshold=2, reset_timeout=1.0, clock=lambda: now[0])
    assert breaker.allow_request()
    breaker.record_failure()
    breaker.record_success()
    breaker.record_failure()
    assert breaker.allow_request()
    breaker.record_failure()
    assert not breaker.allow_request()
    now[0] = 1.5
    assert breaker.allow_request()
    assert not breaker.allow_request()  # one tries, the others wait for what it finds
    breaker.record_failure()
    now[0] = 2.0
    assert not breaker.allow_request()
    now[0] = 2.6
    assert breaker.allow_request()
    breaker.record_success()
    assert breaker.allow_request()
    assert breaker.allow_request()


def test_a_breaker_counts_one_cause_once_and_waits_for_what_was_left_behind() -> None:
    now = [0.0]
    breaker = CircuitBreaker(failure_threshold=2, reset_timeout=1.0, clock=lambda: now[0])
    for _ in range(5):
        now[0] += 0.01
        breaker.record_failure(duration_s=0.5)  # all were under way when the first failed
    assert breaker.failures == 1
    breaker.record_abandoned()
    now[0] = 1.0
    breaker.record_failure(duration_s=0.5)
    now[0] = 9.0
    assert not breaker.allow_request()  # a thread is still in there
    breaker.record_returned()
    assert breaker.allow_request()


def test_a_stage_that_hangs_for_good_costs_one_thread_a_failure(
    mine: Recommender, checkout: Checkout, stalled: Any
) -> None:
    part = stalled("ranker")
    mine.stage_stats.breakers["ranker"].reset_timeout = 0.01
    for _ in range(3):
        answered(mine, checkout)
    for _ in range(10):
        time.sleep(0.02)
        assert "rests" in answered(mine, checkout).reason
    assert part.calls == 3


def test_every_stage_has_a_breaker(mine: Recommender) -> None:
    assert set(mine.stage_stats.breakers) == set(STAGES) == set(mine.stage_stats.expected_ms)
