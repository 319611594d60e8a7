"""Who gets a thread of the models, who a fallback, and who is sent away: nothing waits past its deadline.

A request arrives and the desk decides at once. The models answer it if, as fast as they have been lately,
they will be done in time behind those that wait already. If not, it gets popular items, here on the event
loop: that takes less time than to hand it to a thread. Only where the loop itself is behind is a request
refused, which is cheaper still. So what waits is bounded by what can be answered.

Nobody sees how long a request lay in its socket. But the loop reads all sockets at once, and answers what it
read before it reads again: so what it read last may have waited as long as the answers before it took, and so
may what the models give back. One such round may be a pause of the process, after which all can be answered;
several in a row are more than the loop can do.

The methods run on the event loop, which alone changes `in_flight`; what threads share is in `_jobs`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .deadline import set_single_thread

T = TypeVar("T")
FALLBACK_RESERVE = (
    0.010  # seconds before the deadline at which a fallback takes over; a quarter of a short deadline
)
EWMA_WEIGHT = 0.1  # weight of the latest answer in the time that one takes
QUEUE_TARGET_SHARE = (
    0.38  # of the deadline, by which the models should be done: a longer queue answers no more, only later
)
LOOP_LAG_SHARE = 0.25  # of the deadline: a round that takes longer is long
MAX_LAGGED_ITERATIONS = 3  # that are long in a row, after which who waited as long is refused


class Overloaded(Exception):
    """The request is refused; the message says why."""


class _Job:
    """A request that the models were given."""

    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started: float | None = None  # perf_counter; None while it waits for a thread


class AdmissionController:
    """Answers with bounded threads, bounded waiting and one deadline.

    Args:
        threads: of the models.
        limit: requests at most that wait for the models.
        deadline_ms: from the last byte of a request.
    """

    def __init__(self, threads: int, queue_limit: int, deadline_ms: float) -> None:
        self.threads, self.queue_limit, self.deadline = threads, queue_limit, deadline_ms / 1e3
        self.budget = self.deadline - min(FALLBACK_RESERVE, self.deadline / 4)  # seconds that the models have
        self.in_flight = 0
        self.service_time = 0.0  # seconds that the models take lately, in their thread
        self._iteration_start = self._last_admission = (
            0.0  # when the loop last read its sockets, and looked here last
        )
        self._iteration_time = 0.0  # seconds between the two, the time before
        self._lagged_iterations = 0  # rounds in a row that were long
        self._jobs: set[_Job] = set()  # given to the models and not ended, though perhaps given up
        self._executor = ThreadPoolExecutor(threads, "models", initializer=set_single_thread)

    async def execute(self, models: Callable[[float], T], fallback: Callable[[str], T], arrived: float) -> T:
        """What `models` returns or, if that would be too late, `fallback`.

        Args:
            models: is given the instant (perf_counter, seconds) at which it should have answered.
            fallback: is given the reason; takes a fraction of a millisecond.
            arrived: perf_counter at which the request's last byte arrived.

        Raises Busy if it is refused, and what the function raises.
        """
        now = time.perf_counter()
        waited = now - arrived + self._socket_wait(arrived, now)
        if waited > LOOP_LAG_SHARE * self.deadline and self._lagged_iterations >= MAX_LAGGED_ITERATIONS:
            raise Overloaded("the event loop is behind")
        # What it takes here is taken again on the way back.
        ends, soon = now + self.budget - 2 * waited, now + QUEUE_TARGET_SHARE * self.deadline - 2 * waited
        if self.in_flight >= self.queue_limit or not self._can_meet_deadline(ends, soon):
            return fallback("overloaded: the models would be too late")
        job = _Job()
        self._jobs.add(job)
        self.in_flight += 1
        work = self._executor.submit(self._run_job, job, models, ends)
        answer = asyncio.wrap_future(work)
        try:
            await asyncio.wait((answer,), timeout=max(0.0, ends - time.perf_counter()))
            if answer.done():
                return answer.result()
        finally:
            self.in_flight -= 1
            if work.cancel():  # no thread has taken it
                self._jobs.discard(job)
            answer.cancel()
        return fallback("the models did not answer in time")

    def close(self) -> None:
        """Start nothing more; what still runs is nobody's."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _socket_wait(self, arrived: float, now: float) -> float:
        """Seconds that a request may have waited in its socket: those of the round before its own."""
        if arrived > self._last_admission:
            self._iteration_time, self._iteration_start = (
                self._last_admission - self._iteration_start,
                arrived,
            )
            self._lagged_iterations = (
                self._lagged_iterations + 1 if self._iteration_time > LOOP_LAG_SHARE * self.deadline else 0
            )
        self._last_admission = now
        return self._iteration_time

    def _can_meet_deadline(self, ends: float, soon: float) -> bool:
        """Whether a thread is free before `ends`, or will have answered by `soon` all that wait, and this."""
        now = time.perf_counter()
        lost = self._stalled_threads(now)
        threads, ahead = self.threads - lost, len(self._jobs) - lost
        if threads <= 0 or now >= ends:
            return False
        if ahead < threads:
            return True  # one is free; the recommender sees for itself what it can do in time
        return now + ((ahead - threads + 1) / threads + 1) * self.service_time <= soon

    def _stalled_threads(self, now: float) -> int:
        """Threads that are stalled: their job is past any deadline."""
        return sum(job.started is not None and now - job.started > self.deadline for job in tuple(self._jobs))

    def _run_job(self, job: _Job, models: Callable[[float], T], ends: float) -> T:
        job.started = time.perf_counter()
        try:
            return models(ends)
        finally:
            self.service_time += EWMA_WEIGHT * (time.perf_counter() - job.started - self.service_time)
            self._jobs.discard(job)
