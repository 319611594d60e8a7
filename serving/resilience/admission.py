"""Admission control. Before its deadline, each request gets the models, a fallback or a refusal.

    arrives ─ event loop behind? ─ yes ─▶ Overloaded (503)
                    │ no
              models in time? ─ no ─▶ fallback: popular items, on the event loop
                    │ yes                 ▲
              models, in a thread ─ late ─╯

- The models are in time if the queue, at their recent service time, ends before QUEUE_TARGET_SHARE of the
  deadline. So the queue never holds more requests than can be answered in time.
- A fallback on the event loop takes less time than a hand-over to a thread. A refusal takes even less time.
- The time that a request waits in its socket cannot be measured. The loop reads all sockets and answers these
  requests before it reads again, so a request may have waited as long as the previous iteration took. One
  long iteration may be a pause of the process; several in a row are overload. After a gap between requests as
  long as the deadline, the previous iteration is ignored.

All methods run on the event loop, which alone changes `in_flight`. Threads share `_jobs`.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .runtime import set_single_thread

T = TypeVar("T")
FALLBACK_RESERVE = 0.010  # seconds before the deadline at which a fallback answers; at most a quarter of it
EWMA_WEIGHT = 0.1  # of the latest answer in the service time
QUEUE_TARGET_SHARE = 0.38  # of the deadline; a longer queue answers no more requests, only later
LOOP_LAG_SHARE = 0.25  # of the deadline: a longer loop iteration lags
MAX_LAGGED_ITERATIONS = 3  # in a row; then requests that waited as long are refused


class Overloaded(Exception):
    """The request is refused. The message gives the reason."""


class _Job:
    """A request that was given to the models."""

    __slots__ = ("start_time",)

    def __init__(self) -> None:
        self.start_time: float | None = None  # None while it waits for a thread


class AdmissionController:
    """Answers requests with bounded threads, a bounded queue and one deadline.

    Args:
        threads: number of threads of the models.
        queue_limit: maximum number of requests that the models have at a time.
        deadline_ms: milliseconds after the last byte of a request.
        clock: a clock in seconds, such as time.perf_counter.
    """

    def __init__(
        self,
        threads: int,
        queue_limit: int,
        deadline_ms: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.threads, self.queue_limit, self.deadline, self.clock = (
            threads,
            queue_limit,
            deadline_ms / 1e3,
            clock,
        )
        self.budget = self.deadline - min(FALLBACK_RESERVE, self.deadline / 4)  # seconds for the models
        self.in_flight = 0
        self.service_time = 0.0  # seconds of an answer in its thread, exponentially weighted mean
        self._iteration_start = self._last_admission = 0.0  # of the current loop iteration
        self._previous_iteration_time = 0.0  # seconds
        self._lagged_iterations = 0  # in a row
        self._jobs: set[_Job] = set()  # not ended, though their requests may be answered
        self._executor = ThreadPoolExecutor(threads, "models", initializer=set_single_thread)

    async def execute(
        self, models: Callable[[float], T], fallback: Callable[[str], T], arrival_time: float
    ) -> T:
        """The result of `models`, or of `fallback` if `models` is too late.

        Args:
            models: function of the time (by `clock`) by which it should answer.
            fallback: function of the reason; takes a fraction of a millisecond.
            arrival_time: arrival of the request's last byte, by `clock`.

        Raises Overloaded if the request is refused, and the errors of the two functions.
        """
        now = self.clock()
        waited = now - arrival_time + self._socket_wait(arrival_time, now)
        if waited > LOOP_LAG_SHARE * self.deadline and self._lagged_iterations >= MAX_LAGGED_ITERATIONS:
            raise Overloaded("the event loop is behind")
        # Twice: the answer waits on its way back as long as the request did.
        end_time, target_time = (
            now + self.budget - 2 * waited,
            now + QUEUE_TARGET_SHARE * self.deadline - 2 * waited,
        )
        if self.in_flight >= self.queue_limit or not self._can_meet_deadline(end_time, target_time):
            return fallback("overloaded: the models would be too late")
        job = _Job()
        self._jobs.add(job)
        self.in_flight += 1
        work = self._executor.submit(self._run_job, job, models, end_time)
        answer = asyncio.wrap_future(work)
        try:
            await asyncio.wait((answer,), timeout=max(0.0, end_time - self.clock()))
            if answer.done():
                return answer.result()
        finally:
            self.in_flight -= 1
            if work.cancel():  # no thread has taken it
                self._jobs.discard(job)
            answer.cancel()
        return fallback("the models did not answer in time")

    def close(self) -> None:
        """Start no more jobs. Running jobs are not awaited."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _socket_wait(self, arrival_time: float, now: float) -> float:
        """Seconds that a request may have waited in its socket: the length of the previous loop iteration."""
        if arrival_time > self._last_admission:  # the first of a new iteration
            paused = (
                arrival_time - self._last_admission > self.deadline
            )  # the loop has read all sockets since
            iteration_time = self._last_admission - self._iteration_start
            self._previous_iteration_time = 0.0 if paused else iteration_time
            self._iteration_start = arrival_time
            lagged = self._previous_iteration_time > LOOP_LAG_SHARE * self.deadline
            self._lagged_iterations = self._lagged_iterations + 1 if lagged else 0
        self._last_admission = now
        return self._previous_iteration_time

    def _can_meet_deadline(self, end_time: float, target_time: float) -> bool:
        """Whether a thread is free before `end_time`, or the queue and this request end by `target_time`."""
        now = self.clock()
        stalled = self._stalled_threads(now)
        threads, jobs = self.threads - stalled, len(self._jobs) - stalled
        if threads <= 0 or now >= end_time:
            return False
        if jobs < threads:
            return True  # a thread is free; the recommender keeps the deadline itself
        return now + ((jobs - threads + 1) / threads + 1) * self.service_time <= target_time

    def _stalled_threads(self, now: float) -> int:
        """The number of threads whose job has run for longer than the deadline."""
        return sum(
            job.start_time is not None and now - job.start_time > self.deadline for job in tuple(self._jobs)
        )

    def _run_job(self, job: _Job, models: Callable[[float], T], end_time: float) -> T:
        job.start_time = self.clock()
        try:
            return models(end_time)
        finally:
            self.service_time += EWMA_WEIGHT * (self.clock() - job.start_time - self.service_time)
            self._jobs.discard(job)
