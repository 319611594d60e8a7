"""Admission control, on a clock that stands still: no request waits past its deadline or queues in vain."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from serving.resilience.admission import AdmissionController, Overloaded
from tests.serving.http.services import until
from tests.serving.resilience.clock import ManualClock

DEADLINE_S = 100.0  # long, because `execute` waits for the models in real time
BUDGET_S = 99.99  # of the models


class Simulation:
    """Sends requests to a controller, each in an iteration of the event loop of its own."""

    def __init__(self, threads: int = 1, queue_limit: int = 2, deadline_s: float = DEADLINE_S) -> None:
        self.clock = ManualClock(1_000.0)
        self.controller = AdmissionController(threads, queue_limit, 1e3 * deadline_s, self.clock)
        self.time_left: list[float] = []  # of the models, for each request that they got

    def models(self, end_time: float) -> str:
        self.time_left.append(end_time - self.clock.now)
        return "models"

    def request(self, waited: float = 0.0, models: Any = None) -> str:
        """Send a request that arrived `waited` seconds ago."""
        self.clock.now += 1e-3
        arrival_time = self.clock.now - waited
        return asyncio.run(
            self.controller.execute(models or self.models, lambda reason: reason, arrival_time)
        )


@pytest.fixture
def simulation() -> Any:
    simulation = Simulation()
    yield simulation
    simulation.controller.close()


def test_the_time_before_admission_counts_twice(simulation: Simulation) -> None:
    """The answer waits on its way back as long as the request did."""
    assert simulation.request() == "models"
    assert simulation.request(waited=20.0) == "models"
    assert simulation.time_left == pytest.approx([BUDGET_S, BUDGET_S - 40.0], abs=0.1)
    assert simulation.request(waited=60.0) == "overloaded: the models would be too late"


def test_one_long_iteration_is_no_overload_and_several_in_a_row_are(simulation: Simulation) -> None:
    def long_iteration() -> str:
        """A request that waited 30 s, after an iteration of that length."""
        simulation.clock.now += 30.0
        return simulation.request(waited=30.0)

    assert simulation.request(waited=200.0).startswith("overloaded")
    assert simulation.request().startswith("overloaded")  # it may have waited as long
    assert simulation.request() == "models"
    assert long_iteration() == "models"
    assert [long_iteration() for _ in range(2)] == ["overloaded: the models would be too late"] * 2
    with pytest.raises(Overloaded, match="behind"):
        long_iteration()
    with pytest.raises(Overloaded, match="behind"):  # it may have waited as long
        simulation.request()
    assert simulation.request() == "models"


def test_the_previous_iteration_counts_as_waited(simulation: Simulation) -> None:
    assert simulation.request(waited=20.0) == "models"
    assert simulation.request() == "models"  # it may have waited those 20 s
    assert simulation.request() == "models"  # the iteration before was short
    assert simulation.time_left == pytest.approx([BUDGET_S - 40.0, BUDGET_S - 40.0, BUDGET_S], abs=0.1)


def test_the_first_request_after_a_pause_gets_the_models(simulation: Simulation) -> None:
    """However long the iterations before the pause were."""
    for _ in range(5):
        simulation.clock.now += 60.0
        with suppress(Overloaded):
            simulation.request(waited=60.0)
    simulation.clock.now += DEADLINE_S
    assert simulation.request() == "models"
    assert simulation.time_left[-1] == pytest.approx(BUDGET_S, abs=0.1)


def test_slow_models_are_tried_again(simulation: Simulation) -> None:
    simulation.controller.service_time = 50 * DEADLINE_S
    for _ in range(80):
        simulation.request()
    assert simulation.controller.service_time < DEADLINE_S / 10


def test_a_queued_request_whose_time_is_over_never_starts() -> None:
    """One runs and two wait. All three get the fallback, and those that waited are gone."""
    controller = AdmissionController(1, queue_limit=3, deadline_ms=100, clock=ManualClock(1_000.0))
    started, release = [], threading.Event()

    def models(_: float) -> str:
        started.append(1)
        release.wait(60.0)
        return "models"

    async def three_requests() -> list[str]:
        requests = (controller.execute(models, lambda reason: reason, 1_000.0) for _ in range(3))
        return await asyncio.gather(*requests)

    assert asyncio.run(three_requests()) == ["the models did not answer in time"] * 3
    release.set()
    until(lambda: not controller._jobs)
    controller.close()
    assert len(started) == 1
    assert controller.in_flight == 0


def test_no_more_than_the_limit_wait_for_the_models() -> None:
    simulation = Simulation(queue_limit=3)

    async def nine_requests() -> list[str]:
        execute, now = simulation.controller.execute, simulation.clock.now
        return await asyncio.gather(
            *(execute(simulation.models, lambda reason: reason, now) for _ in range(9))
        )

    answers = asyncio.run(nine_requests())
    assert sorted(answers) == ["models"] * 3 + ["overloaded: the models would be too late"] * 6
    simulation.controller.close()


def test_an_error_of_the_models_reaches_the_caller(simulation: Simulation) -> None:
    def broken(_: float) -> str:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        simulation.request(models=broken)
    assert simulation.controller.in_flight == 0
    until(lambda: not simulation.controller._jobs)


def test_stalled_threads_get_no_requests(simulation: Simulation) -> None:
    release = threading.Event()
    started = threading.Event()

    def stall(_: float) -> str:
        started.set()
        release.wait(60.0)
        return "models"

    async def abandoned_request() -> None:
        request = simulation.controller.execute(stall, lambda reason: reason, simulation.clock.now)
        task = asyncio.create_task(request)
        await asyncio.to_thread(started.wait, 60.0)
        task.cancel()

    asyncio.run(abandoned_request())
    simulation.clock.now += DEADLINE_S + 1.0
    assert simulation.request() == "overloaded: the models would be too late"
    release.set()
    until(lambda: not simulation.controller._jobs)
    assert simulation.request() == "models"
