"""Who gets a thread of the models, who a fallback, and who is sent away: nothing waits past its deadline.

A request arrives and the desk decides at once. The models answer it if, as fast as they have been lately,
they will be done in time behind those that wait already. If not, a thread of its own gives it popular items,
which takes a fraction of a millisecond. If even that would be too late, or too many are in flight, it is
refused. So what waits is bounded by what can be answered.

Nobody sees how long a request lay in the socket, or its answer will. The event loop's lag, from a request's
last byte to the desk, stands for either. And how many fallbacks may be in flight is found by trying, as TCP
finds its window: one more after a quick one, a tenth fewer after a slow one.

The methods run on the event loop, which alone changes `in_flight`; what threads share is in `_jobs`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.clock import one_thread

Answer = TypeVar("Answer")
RESERVE = 0.010  # seconds before the deadline at which a fallback takes over; a quarter of a short deadline
SLOWLY = 0.02  # weight of the latest lag: a pause of the process is no overload, whoever waited is answered
LATELY = 0.1  # weight of the latest answer in the time that one takes
SOON = 0.5  # of the deadline, by which the models should be done: a longer queue answers no more, only later
QUICK = 0.25  # of the deadline, that a fallback or the lag may take; twice more may go unseen
HOPELESS = 2.0  # seconds: a fallback that takes longer will not come


class Busy(Exception):
    """The request is refused; the message says why."""


class _Job:
    """A request that the models were given."""

    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started: float | None = None  # perf_counter; None while it waits for a thread


class Desk:
    """Answers with bounded threads, bounded waiting and one deadline.

    Args:
        threads: of the models.
        limit: requests in flight at most.
        deadline_ms: from the last byte of a request.
    """

    def __init__(self, threads: int, limit: int, deadline_ms: float) -> None:
        self.threads, self.limit, self.deadline = threads, limit, deadline_ms / 1e3
        self.budget = self.deadline - min(RESERVE, self.deadline / 4)  # seconds that the models have
        self.in_flight = 0
        self.window = float(limit)  # fallbacks that may be in flight
        self.lag = 0.0  # seconds from a last byte to the desk, lately
        self.took = 0.0  # seconds that the models take lately, in their thread
        self._jobs: set[_Job] = set()  # given to the models and not ended, though perhaps given up
        self._fallbacks = 0
        self._models = ThreadPoolExecutor(threads, "models", initializer=one_thread)
        self._popular = ThreadPoolExecutor(1, "fallback", initializer=one_thread)

    async def answer(
        self, models: Callable[[float], Answer], fallback: Callable[[str], Answer], arrived: float
    ) -> Answer:
        """What `models` returns or, if that would be too late, `fallback`.

        Args:
            models: is given the instant (perf_counter, seconds) at which it should have answered.
            fallback: is given the reason; quick.
            arrived: perf_counter at which the request's last byte arrived.

        Raises Busy if it is refused, and what the function raises.
        """
        if self.in_flight >= self.limit:
            raise Busy(f"{self.limit} requests are in flight")
        self.in_flight += 1
        try:
            lag = time.perf_counter() - arrived
            self.lag += SLOWLY * (lag - self.lag)
            if min(lag, self.lag) > QUICK * self.deadline:
                raise Busy("the event loop is behind")
            ends = arrived + self.budget - lag  # the lag of the way back
            why = "overloaded: the models would be too late"
            if self._in_time(ends, arrived + SOON * self.deadline - lag):
                job = _Job()
                self._jobs.add(job)
                work = self._models.submit(self._run, job, models, ends)
                answer = asyncio.wrap_future(work)
                try:
                    await asyncio.wait((answer,), timeout=max(0.0, ends - time.perf_counter()))
                    if answer.done():
                        return answer.result()
                finally:
                    if work.cancel():  # no thread has taken it
                        self._jobs.discard(job)
                    answer.cancel()
                why = "the models did not answer in time"
            elif self._fallbacks >= self.window:
                raise Busy("the requests in flight take all of the time")
            return await self._fall_back(fallback, why)
        finally:
            self.in_flight -= 1

    def close(self) -> None:
        """Wait for what is running; what is stalled is left behind."""
        for pool in (self._models, self._popular):
            pool.shutdown(wait=not self._lost(time.perf_counter()), cancel_futures=True)

    def _in_time(self, ends: float, soon: float) -> bool:
        """Whether a thread is free before `ends`, or will have answered by `soon` all that wait, and this."""
        now = time.perf_counter()
        lost = self._lost(now)
        threads, ahead = self.threads - lost, len(self._jobs) - lost
        if threads <= 0 or now >= ends:
            return False
        if ahead < threads:
            return True  # one is free; the recommender sees for itself what it can do in time
        return now + ((ahead - threads + 1) / threads + 1) * self.took <= soon

    def _lost(self, now: float) -> int:
        """Threads that are stalled: their job is past any deadline."""
        return sum(job.started is not None and now - job.started > self.deadline for job in tuple(self._jobs))

    def _run(self, job: _Job, models: Callable[[float], Answer], ends: float) -> Answer:
        job.started = time.perf_counter()
        try:
            return models(ends)
        finally:
            self.took += LATELY * (time.perf_counter() - job.started - self.took)
            self._jobs.discard(job)

    async def _fall_back(self, fallback: Callable[[str], Answer], why: str) -> Answer:
        self._fallbacks += 1
        started = time.perf_counter()
        try:
            work = asyncio.wrap_future(self._popular.submit(fallback, why))
            await asyncio.wait((work,), timeout=HOPELESS)
            if not work.done():
                work.cancel()
                raise Busy("no thread became free")
            return work.result()
        finally:
            self._fallbacks -= 1
            if time.perf_counter() - started > QUICK * self.deadline:
                self.window = max(1.0, 0.9 * self.window)
            else:
                self.window = min(float(self.limit), self.window + 1 / self.window)
