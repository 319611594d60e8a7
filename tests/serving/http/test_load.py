"""Overload and stalled models over HTTP: every request gets six items or a refusal.

How fast is not asserted here, for it depends on the machine: tests/serving/resilience/test_admission.py holds
the controller to its deadlines on a manual clock.
"""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.http.app import create_app
from serving.http.settings import Settings
from tests.serving.http.services import BASKET, Blocked, Client, Slow, serving, six, until

NOW = 1_711_900_000  # Unix seconds
SLATES = "/v1/recommendations"
DEADLINE = 400.0  # ms: the machine may be busy
HANG = 20.0  # seconds: far beyond the deadline, whatever else the machine does


@pytest.fixture
def client(version: Path) -> Iterator[Client]:
    """With two threads, and a ranker that takes 50 ms and leaves the GIL to others."""
    with serving(
        create_app(Settings(version.parent, threads=2, queue_limit=30, deadline_ms=DEADLINE))
    ) as asked:
        slow_ranker(asked, 0.05)
        yield asked


def slow_ranker(client: Client, seconds: float) -> None:
    recommender = client.service.bundle_watcher.recommender
    module = getattr(recommender.bundle.ranker, "module", recommender.bundle.ranker)
    recommender.bundle = replace(recommender.bundle, ranker=Slow(module, seconds) if seconds else module)


def test_one_at_a_time_is_ranked(client: Client) -> None:
    until(lambda: six(client.post(SLATES, BASKET))["tier"] == "ranked")


def test_overload_is_answered(client: Client) -> None:
    """60 at a time, of which some 12 can be ranked in time: the others get popular items at once."""
    six(client.post(SLATES, BASKET))
    found = client.together(SLATES, [{**BASKET, "ts": NOW + 120 * k} for k in range(60)])  # none remembered
    slates = [six(response) for response, _ in found]
    tiers = [slate["tier"] for slate in slates]
    assert set(tiers) <= {"ranked", "category", "popularity", "retrieval"}
    assert set(tiers) - {"ranked"}
    assert all(slate["tier"] == "ranked" or slate["reason"] for slate in slates)
    assert sum(slate["reason"].startswith("overloaded") for slate in slates) >= 30
    for tier in set(tiers):
        assert client.number(f'sextet_slates_total{{tier="{tier}"}}') >= tiers.count(tier)
    assert max(took for _, took in found) < HANG
    assert client.number("sextet_overload_rejections_total") == client.service.admission.in_flight == 0
    until(lambda: six(client.post(SLATES, BASKET))["tier"] == "ranked")


def test_a_refusal_says_when_to_try_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.resilience.admission.LOOP_LAG_SHARE", 0.0)  # the loop is always behind
    statuses = [client.post(SLATES, BASKET).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 503]
    response = client.post(SLATES, BASKET)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["detail"].startswith("overloaded: the event loop is behind")
    assert client.number("sextet_overload_rejections_total") == 2


def test_models_that_stall_are_left_to_themselves(client: Client) -> None:
    """While the ranker hangs every request gets six items; then it is ranked again."""
    recommender = client.service.bundle_watcher.recommender
    blocked = Blocked(recommender.bundle.ranker)
    recommender.bundle = replace(recommender.bundle, ranker=blocked)
    recommender.stage_stats.expected_ms["ranker"] = 0.0  # the deadline does not know that it is slow
    for response, took in client.together(SLATES, [{**BASKET, "ts": NOW + 120 * k} for k in (70, 71)]):
        assert six(response)["tier"] in ("category", "popularity", "retrieval")
        assert took < HANG
    slate = six(client.post(SLATES, BASKET))
    assert slate["tier"] in ("category", "popularity", "retrieval")
    assert slate["reason"]
    blocked.released.set()
    again = {**BASKET, "ts": NOW + 120 * 72}
    until(lambda: client.post(SLATES, again).json()["tier"] == "ranked")


def test_a_slow_body_holds_nobody_up(client: Client) -> None:
    async def never() -> Any:
        yield b"{"
        await asyncio.sleep(1.0)
        yield b"}"

    thread = threading.Thread(target=lambda: client.post(SLATES, never()))
    thread.start()
    assert six(client.post(SLATES, BASKET))["tier"] == "ranked"
    assert client.service.admission.in_flight == 0
    thread.join()
