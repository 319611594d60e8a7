"""The deadline of a request: which stages start, how long they take, and why one was passed over.

A stage that stalls cannot be stopped. So stages run in a thread of their own (`Clock.wait`), and the request
leaves it behind when its time is up: what the thread finished until then is what there is to answer with.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from .circuit_breaker import CircuitBreaker
from .thread_pool import Task, ThreadPool

MAX_WAIT_MS = 3.6e6  # milliseconds to wait at a time; a lock takes no number beyond some years
STALL_FRACTION = 0.5  # of the deadline: a stage that took as much alone is at fault


class StageSkipped(Exception):
    """A stage was not started or gave nothing to go on with; the message is the reason."""


class StageStats:
    """What is known of every stage, over all requests: how long it takes, and whether it fails."""

    def __init__(self, names: Sequence[str]) -> None:
        self.expected_ms = dict.fromkeys(names, 0.0)  # milliseconds, measured by Recommender.warm_up
        self.breakers = {name: CircuitBreaker() for name in names}


class Deadline:
    """One monotonic deadline, `deadline_ms` from `started` (time.perf_counter), and each stage's time."""

    def __init__(self, deadline_ms: float, stage_stats: StageStats, start_time: float | None = None) -> None:
        self.start_time = time.perf_counter() if start_time is None else start_time
        self.deadline_ms = deadline_ms
        self.stage_stats = stage_stats
        self.current_stage, self.stage_start_ms = "", 0.0  # the one under way, and when it began
        self.is_abandoned = False  # nobody waits for it any more
        self._abandon_lock = threading.Lock()
        self._stage_times: list[tuple[str, float]] = []
        self._given_up: list[tuple[str, float]] = []  # what was under way when it was left

    def elapsed_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self.start_time)

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline."""
        return self.deadline_ms - self.elapsed_ms()

    def run_stage(self, stage: str, function: Any, *arguments: Any) -> Any:
        """Run a stage if there is time and it is not resting. Raises Skipped with its name and the reason."""
        breaker = self.stage_stats.breakers[stage]
        before = self.elapsed_ms()
        left = self.deadline_ms - before
        if not left > self.stage_stats.expected_ms[stage]:
            raise StageSkipped(
                f"{stage}: {left:.1f} ms left, it takes {self.stage_stats.expected_ms[stage]:.1f}"
            )
        if not breaker.allow_request():
            raise StageSkipped(f"{stage}: it failed {breaker.failures} times in a row and rests")
        with self._abandon_lock:
            if self.is_abandoned:
                raise StageSkipped(f"{stage}: nobody waits for it")
            self.current_stage, self.stage_start_ms = stage, before
        try:
            found = function(*arguments)
        except Exception as error:
            if not self.is_abandoned:
                breaker.record_failure((self.elapsed_ms() - before) / 1e3)
            raise StageSkipped(f"{stage}: {error_message(error)}") from error
        else:
            if not self.is_abandoned:  # else its lateness was noted
                breaker.record_success()
            return found
        finally:
            self._stage_times.append((stage, self.elapsed_ms() - before))
            with self._abandon_lock:
                self.current_stage = ""
                if self.is_abandoned:
                    breaker.record_returned()

    def run_stage_or_default(
        self, stage: str, default: Any, reasons: list[str], function: Any, *arguments: Any
    ) -> Any:
        """As `run`, but a stage that fails leaves `otherwise` and its reason."""
        try:
            return self.run_stage(stage, function, *arguments)
        except StageSkipped as error:
            reasons.append(str(error))
            return default

    def run_in_pool(
        self,
        threads: ThreadPool,
        keep_ms: float,
        function: Callable[[], None],
        first: str = "",
        first_ms: float = math.inf,
    ) -> str:
        """Run `function` in a thread until `keep_ms` before the deadline. Returns why it was left, if it was.

        Where the stage `first`, if it begins with it, is not done in `first_ms`, or no thread was free for so
        long, it is left then, and `again` has the time that remains. With an infinite deadline it runs in
        this thread.
        """
        if math.isinf(self.deadline_ms):
            function()
            return ""
        self.stage_start_ms = self.elapsed_ms()
        try:
            task = threads.submit(function)
        except RuntimeError as error:
            return error_message(error)
        while True:
            patience = math.inf if self._stage_times else first_ms - (self.elapsed_ms() - self.stage_start_ms)
            # Again and again, where it is not known when the stage will begin.
            pause = min(self.remaining_ms() - keep_ms, max(patience, 1.0), MAX_WAIT_MS) / 1e3
            if task.wait(pause if pause > 0 else 0.0):  # a deadline that is no number has passed
                return ""
            if reason := self._abandon_if_late(task, keep_ms, first, first_ms):
                return reason

    def _abandon_if_late(self, task: Task, keep_ms: float, first: str, first_ms: float) -> str:
        """Leave the task if it is time to; why, if it was."""
        with self._abandon_lock:
            stage, took = self.current_stage, self.elapsed_ms() - self.stage_start_ms
            slow = took >= first_ms and not self._stage_times and stage in ("", first)
            if self.remaining_ms() > keep_ms and not slow:
                return ""
            if task.cancel():
                return f"no thread was free for {took:.0f} ms"
            stuck = slow and stage == first
            if self.remaining_ms() > keep_ms and not stuck:
                return ""
            self.is_abandoned = True
            if stage:
                self.stage_stats.breakers[stage].record_abandoned()
        # Else it is the machine that is slow, not the stage: it began late.
        if stage and (stuck or took > STALL_FRACTION * self.deadline_ms):
            self.stage_stats.breakers[stage].record_failure(took / 1e3)
        self._given_up = [(stage, took)] if stuck else []
        return (
            f"{stage or 'between two stages'}: not done after {took if stuck else self.elapsed_ms():.0f} ms"
        )

    def new_attempt(self) -> "Deadline":
        """The same deadline for another attempt, after this one was left behind."""
        clock = Deadline(self.deadline_ms, self.stage_stats, self.start_time)
        clock._stage_times = self._given_up
        return clock

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and `total`."""
        return {**dict(self._stage_times[:]), "total": self.elapsed_ms()}


def set_single_thread() -> None:
    """For a new thread of Python: torch and faiss keep their number of threads by it, and each would start a
    pool of its own."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def finite_output(module: Any, *arguments: Any) -> Any:
    """Call a module; raises Skipped if a number of its output is not finite."""
    output = module(*arguments)
    for tensor in (output,) if isinstance(output, Tensor) else output:
        if not tensor.is_floating_point() or math.isfinite(tensor.numpy().sum()):
            continue  # one number that is not finite makes the sum so, and of finite ones it seldom is
        if not np.isfinite(tensor.numpy()).all():
            raise StageSkipped("its output is not finite")
    return output


def error_message(error: Exception) -> str:
    """One line: the message of a Skipped, else the error's type and the last line of its message."""
    if isinstance(error, StageSkipped):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
