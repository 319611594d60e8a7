"""Too many requests, and models that stall: six items in time or a refusal at once, and never a queue."""

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.http.app import create_app
from serving.http.settings import Settings
from serving.resilience.admission import AdmissionController, Overloaded
from tests.serving.http.services import BASKET, Client, Slow, serving, six, until

NOW = 1_711_900_000  # Unix seconds
SLATES = "/v1/recommendations"
DEADLINE = 400.0  # ms: the machine may be busy
SLACK = 0.15  # seconds by which a busy machine may be late


@pytest.fixture
def client(version: Path) -> Iterator[Client]:
    """With two threads, and a ranker that takes 50 ms and leaves the GIL to others."""
    with serving(
        create_app(Settings(version.parent, threads=2, queue_limit=30, deadline_ms=DEADLINE))
    ) as asked:
        slow_ranker(asked, 0.05)
        yield asked


def slow_ranker(client: Client, seconds: float) -> None:
    recommender = client.service.swap.recommender
    module = getattr(recommender.bundle.ranker, "module", recommender.bundle.ranker)
    recommender.bundle = replace(recommender.bundle, ranker=Slow(module, seconds) if seconds else module)


def test_one_at_a_time_is_ranked(client: Client) -> None:
    for _ in range(3):
        assert six(client.post(SLATES, BASKET))["tier"] == "ranked"


def test_overload_is_answered(client: Client) -> None:
    """60 at a time, of which some 12 can be ranked in time: the others get popular items at once."""
    six(client.post(SLATES, BASKET))
    found = client.together(SLATES, [{**BASKET, "ts": NOW + 120 * k} for k in range(60)])  # none remembered
    slates = [six(response) for response, _ in found]
    tiers = [slate["tier"] for slate in slates]
    assert tiers.count("ranked") >= 2
    assert set(tiers) - {"ranked"} <= {"category", "popularity", "retrieval"}
    assert len(set(tiers)) > 1
    assert all(slate["tier"] == "ranked" or slate["reason"] for slate in slates)
    assert sum(slate["reason"].startswith("overloaded") for slate in slates) >= 30
    for tier in set(tiers):
        assert client.number(f'sextet_slates_total{{tier="{tier}"}}') >= tiers.count(tier)
    assert max(took for _, took in found) <= DEADLINE / 1e3 + SLACK
    assert client.number("sextet_overload_rejections_total") == client.service.admission.in_flight == 0
    assert six(client.post(SLATES, BASKET))["tier"] == "ranked"


def test_a_refusal_says_when_to_try_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.resilience.admission.BEHIND", 0.0)  # the loop is always behind
    statuses = [client.post(SLATES, BASKET).status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 503]
    response = client.post(SLATES, BASKET)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["detail"].startswith("overloaded: the event loop is behind")
    assert client.number("sextet_overload_rejections_total") == 2


def test_models_that_stall_are_left_to_themselves(client: Client) -> None:
    """The first requests wait as long as they may; those that follow are not given to stalled threads."""
    slow_ranker(client, 3.0)
    recommender = client.service.swap.recommender
    recommender.stages.expected["ranker"] = 0.0  # nobody knows of it
    for response, took in client.together(SLATES, [{**BASKET, "ts": NOW + 120 * k} for k in (70, 71)]):
        assert six(response)["tier"] in ("category", "popularity", "retrieval")
        assert took <= DEADLINE / 1e3 + SLACK
    slow_ranker(client, 0.0)
    if client.service.admission._lost(time.perf_counter()) == 2:
        response, took = client.together(SLATES, [BASKET])[0]
        assert six(response)["reason"] == "overloaded: the models would be too late"
        assert took < 0.2
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


def asked(desk: AdmissionController, models: Any, late: float = 0.0) -> str:
    """One request that arrived `late` seconds ago."""
    return asyncio.run(desk.execute(models, lambda why: why, time.perf_counter() - late))


def test_the_time_before_the_desk_counts() -> None:
    desk = AdmissionController(threads=1, queue_limit=2, deadline_ms=100)
    left: list[float] = []

    def models(ends: float) -> str:
        left.append(ends - time.perf_counter())
        return "models"

    assert asked(desk, models) == "models"
    assert asked(desk, models, late=0.02) == "models"
    assert 0.03 < left[0] - left[1] < 0.06  # on the way here, and so on the way back
    assert asked(desk, models, late=0.06) == "overloaded: the models would be too late"
    desk.close()


def test_a_pause_is_no_overload_and_rounds_that_stay_long_are() -> None:
    desk = AdmissionController(threads=1, queue_limit=2, deadline_ms=100)

    def round_of(seconds: float) -> str:
        """A request that waits for so long since the loop read it, after one round of the same length."""
        time.sleep(seconds)
        return asked(desk, lambda ends: "models", late=seconds)

    assert asked(desk, lambda ends: "models", late=0.2).startswith("overloaded")  # late, but once
    assert asked(desk, lambda ends: "models").startswith("overloaded")  # it may have waited behind that one
    assert asked(desk, lambda ends: "models") == "models"
    found = [round_of(0.03) for _ in range(3)]
    assert found[1:] == ["overloaded: the models would be too late"] * 2
    with pytest.raises(Overloaded, match="behind"):
        round_of(0.03)
    with pytest.raises(Overloaded, match="behind"):  # it may have waited behind that one
        asked(desk, lambda ends: "models")
    assert asked(desk, lambda ends: "models") == "models"  # and at once again
    desk.close()


def test_what_was_answered_before_counts_for_what_may_have_waited_behind_it() -> None:
    desk, left = AdmissionController(threads=1, queue_limit=2, deadline_ms=100), []

    def models(ends: float) -> str:
        left.append(ends - time.perf_counter())
        return "models"

    assert asked(desk, models, late=0.02) == "models"
    assert asked(desk, models) == "models"  # read after 20 ms of which it may have been there
    assert asked(desk, models) == "models"  # nothing was before it but a quick one
    assert left[1] < 0.06
    assert left[2] > 0.07
    desk.close()


def test_what_was_slow_once_is_tried_again() -> None:
    desk = AdmissionController(threads=1, queue_limit=2, deadline_ms=100)
    desk.service_time = 5.0
    for _ in range(80):
        asked(desk, lambda ends: "models")
    assert desk.service_time < 0.01
    desk.close()


def test_what_waits_in_vain_is_never_started() -> None:
    """One is running behind which two wait; both are answered in time by the fallback, and are gone."""
    desk, started = AdmissionController(threads=1, queue_limit=3, deadline_ms=100), []

    def models(ends: float) -> str:
        started.append(1)
        time.sleep(0.3)
        return "models"

    async def three() -> list[str]:
        now = time.perf_counter()
        return await asyncio.gather(*(desk.execute(models, lambda why: why, now) for _ in range(3)))

    began = time.perf_counter()
    assert asyncio.run(three()) == ["the models did not answer in time"] * 3
    assert time.perf_counter() - began < 0.3
    until(lambda: not desk._jobs)
    desk.close()
    assert len(started) == 1
    assert desk.in_flight == 0


def test_no_more_than_the_limit_wait_for_the_models() -> None:
    desk = AdmissionController(threads=1, queue_limit=3, deadline_ms=1000)

    async def many() -> list[str]:
        now = time.perf_counter()
        work = (
            desk.execute(lambda ends: time.sleep(0.01) or "models", lambda why: why, now) for _ in range(9)
        )
        return await asyncio.gather(*work)

    assert sorted(asyncio.run(many())) == ["models"] * 3 + ["overloaded: the models would be too late"] * 6
    desk.close()


def test_an_error_of_the_models_reaches_the_caller() -> None:
    desk = AdmissionController(threads=1, queue_limit=1, deadline_ms=1000)

    def broken(ends: float) -> str:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        asked(desk, broken)
    assert (desk.in_flight, len(desk._jobs)) == (0, 0)
    desk.close()
