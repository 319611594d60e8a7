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

from .circuit_breaker import Breaker
from .thread_pool import Task, Threads

LONGEST = 3.6e6  # milliseconds to wait at a time; a lock takes no number beyond some years
STALLED = 0.5  # of the deadline: a stage that took as much alone is at fault


class Skipped(Exception):
    """A stage was not started or gave nothing to go on with; the message is the reason."""


class Stages:
    """What is known of every stage, over all requests: how long it takes, and whether it fails."""

    def __init__(self, names: Sequence[str]) -> None:
        self.expected = dict.fromkeys(names, 0.0)  # milliseconds, measured by Recommender.warm_up
        self.breakers = {name: Breaker() for name in names}


class Clock:
    """One monotonic deadline, `deadline_ms` from `started` (time.perf_counter), and each stage's time."""

    def __init__(self, deadline_ms: float, stages: Stages, started: float | None = None) -> None:
        self.started = time.perf_counter() if started is None else started
        self.deadline_ms = deadline_ms
        self.stages = stages
        self.stage, self.since = "", 0.0  # the one under way, and when it began
        self.over = False  # nobody waits for it any more
        self._leaving = threading.Lock()
        self._taken: list[tuple[str, float]] = []
        self._given_up: list[tuple[str, float]] = []  # what was under way when it was left

    def elapsed(self) -> float:
        return 1e3 * (time.perf_counter() - self.started)

    def left(self) -> float:
        """Milliseconds until the deadline."""
        return self.deadline_ms - self.elapsed()

    def run(self, stage: str, function: Any, *arguments: Any) -> Any:
        """Run a stage if there is time and it is not resting. Raises Skipped with its name and the reason."""
        breaker = self.stages.breakers[stage]
        before = self.elapsed()
        left = self.deadline_ms - before
        if not left > self.stages.expected[stage]:
            raise Skipped(f"{stage}: {left:.1f} ms left, it takes {self.stages.expected[stage]:.1f}")
        if not breaker.ready():
            raise Skipped(f"{stage}: it failed {breaker.failures} times in a row and rests")
        with self._leaving:
            if self.over:
                raise Skipped(f"{stage}: nobody waits for it")
            self.stage, self.since = stage, before
        try:
            found = function(*arguments)
        except Exception as error:
            if not self.over:
                breaker.failed((self.elapsed() - before) / 1e3)
            raise Skipped(f"{stage}: {reason_of(error)}") from error
        else:
            if not self.over:  # else its lateness was noted
                breaker.worked()
            return found
        finally:
            self._taken.append((stage, self.elapsed() - before))
            with self._leaving:
                self.stage = ""
                if self.over:
                    breaker.returned()

    def optional(self, stage: str, otherwise: Any, reasons: list[str], function: Any, *arguments: Any) -> Any:
        """As `run`, but a stage that fails leaves `otherwise` and its reason."""
        try:
            return self.run(stage, function, *arguments)
        except Skipped as error:
            reasons.append(str(error))
            return otherwise

    def wait(
        self,
        threads: Threads,
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
        self.since = self.elapsed()
        try:
            task = threads.submit(function)
        except RuntimeError as error:
            return reason_of(error)
        while True:
            patience = math.inf if self._taken else first_ms - (self.elapsed() - self.since)
            # Again and again, where it is not known when the stage will begin.
            pause = min(self.left() - keep_ms, max(patience, 1.0), LONGEST) / 1e3
            if task.wait(pause if pause > 0 else 0.0):  # a deadline that is no number has passed
                return ""
            if reason := self._left(task, keep_ms, first, first_ms):
                return reason

    def _left(self, task: Task, keep_ms: float, first: str, first_ms: float) -> str:
        """Leave the task if it is time to; why, if it was."""
        with self._leaving:
            stage, took = self.stage, self.elapsed() - self.since
            slow = took >= first_ms and not self._taken and stage in ("", first)
            if self.left() > keep_ms and not slow:
                return ""
            if task.cancel():
                return f"no thread was free for {took:.0f} ms"
            stuck = slow and stage == first
            if self.left() > keep_ms and not stuck:
                return ""
            self.over = True
            if stage:
                self.stages.breakers[stage].left()
        # Else it is the machine that is slow, not the stage: it began late.
        if stage and (stuck or took > STALLED * self.deadline_ms):
            self.stages.breakers[stage].failed(took / 1e3)
        self._given_up = [(stage, took)] if stuck else []
        return f"{stage or 'between two stages'}: not done after {took if stuck else self.elapsed():.0f} ms"

    def again(self) -> "Clock":
        """The same deadline for another attempt, after this one was left behind."""
        clock = Clock(self.deadline_ms, self.stages, self.started)
        clock._taken = self._given_up
        return clock

    def finish(self) -> dict[str, float]:
        """Milliseconds by stage, and `total`."""
        return {**dict(self._taken[:]), "total": self.elapsed()}


def one_thread() -> None:
    """For a new thread of Python: torch and faiss keep their number of threads by it, and each would start a
    pool of its own."""
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def finite(module: Any, *arguments: Any) -> Any:
    """Call a module; raises Skipped if a number of its output is not finite."""
    output = module(*arguments)
    for tensor in (output,) if isinstance(output, Tensor) else output:
        if not tensor.is_floating_point() or math.isfinite(tensor.numpy().sum()):
            continue  # one number that is not finite makes the sum so, and of finite ones it seldom is
        if not np.isfinite(tensor.numpy()).all():
            raise Skipped("its output is not finite")
    return output


def reason_of(error: Exception) -> str:
    """One line: the message of a Skipped, else the error's type and the last line of its message."""
    if isinstance(error, Skipped):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
