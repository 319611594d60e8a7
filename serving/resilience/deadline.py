"""The deadline of a request, and its division among the stages.

    0         ≤ 20                                                               98       100 ms
    ├─ store ──┼─ encode ─ query_tower ─ index ─ candidates ─ ranker ─ slate ─────┼─ reserve ─┤
    │ time-out:│ a stage starts only if more time is left than it usually takes    │ six items from
    │ a second │                                                                   │ the best result
    │ attempt, without a history                                                   │ so far

- STORE_TIMEOUT_MS is the store's own limit; the wait for a free thread counts.
- StageStats.expected_ms is the usual time of a stage. If less time is left, the stage is skipped.
- SLATE_RESERVE_MS before the deadline, the caller abandons the stages and builds the slate.
- An abandoned stage that used more than STALL_FRACTION of the deadline counts as failed.

A stage cannot be interrupted. It runs in a pool thread (`Deadline.run_in_pool`), which the caller abandons
when the time is over.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, TypeVarTuple

import numpy as np
from torch import Tensor

from .circuit_breaker import CircuitBreaker
from .thread_pool import Task, ThreadPool

Arguments = TypeVarTuple("Arguments")
Output = TypeVar("Output")
STORE_TIMEOUT_MS = 20.0  # ranking continues without a history
SLATE_RESERVE_MS = 2.0  # building six items takes a fraction of it
STALL_FRACTION = 0.5  # of the deadline
MAX_WAIT_MS = 3.6e6  # of one wait: a lock rejects timeouts of some years


class StageSkipped(Exception):
    """A stage did not start or gave no usable output; the message is the reason."""


class StageStats:
    """The usual duration and the circuit breaker of every stage. All requests share this object."""

    def __init__(self, stages: Sequence[str]) -> None:
        self.expected_ms = dict.fromkeys(stages, 0.0)  # measured by warm_up.py
        self.breakers = {stage: CircuitBreaker() for stage in stages}


class Deadline:
    """One attempt at a request, up to `deadline_ms` after `start_time` (time.perf_counter)."""

    def __init__(self, deadline_ms: float, stage_stats: StageStats, start_time: float | None = None) -> None:
        self.start_time = time.perf_counter() if start_time is None else start_time
        self.deadline_ms = deadline_ms
        self.is_infinite = math.isinf(deadline_ms)  # somebody measures or verifies
        self.stage_stats = stage_stats
        self.current_stage, self.stage_start_ms = "", 0.0
        self.is_abandoned = False  # the caller waits no longer
        self._abandon_lock = threading.Lock()
        self._stage_times: list[tuple[str, float]] = []
        self._abandoned_stage_times: list[tuple[str, float]] = []

    def elapsed_ms(self) -> float:
        return 1e3 * (time.perf_counter() - self.start_time)

    def remaining_ms(self) -> float:
        """Milliseconds until the deadline."""
        return self.deadline_ms - self.elapsed_ms()

    def run_stage(
        self, stage: str, function: Callable[[*Arguments], Output], *arguments: *Arguments
    ) -> Output:
        """The output of a stage. Raises StageSkipped for lack of time, an open breaker or a failed stage."""
        breaker, expected_ms = self.stage_stats.breakers[stage], self.stage_stats.expected_ms[stage]
        start_ms = self.elapsed_ms()
        remaining_ms = self.deadline_ms - start_ms
        if not remaining_ms > expected_ms:
            raise StageSkipped(f"{stage}: needs {expected_ms:.1f} ms, but {remaining_ms:.1f} ms are left")
        if not breaker.allow_request():
            raise StageSkipped(f"{stage}: circuit open after {breaker.failures} failures in a row")
        with self._abandon_lock:
            if self.is_abandoned:
                raise StageSkipped(f"{stage}: the attempt is abandoned")
            self.current_stage, self.stage_start_ms = stage, start_ms
        try:
            output = function(*arguments)
        except Exception as error:
            if not self.is_abandoned:
                breaker.record_failure((self.elapsed_ms() - start_ms) / 1e3)
            raise StageSkipped(f"{stage}: {error_message(error)}") from error
        else:
            if not self.is_abandoned:  # otherwise `_abandon_if_late` recorded it
                breaker.record_success()
            return output
        finally:
            self._stage_times.append((stage, self.elapsed_ms() - start_ms))
            with self._abandon_lock:
                self.current_stage = ""
                if self.is_abandoned:
                    breaker.record_returned()

    def run_stage_or_default(
        self,
        stage: str,
        default: Output,
        reasons: list[str],
        function: Callable[[*Arguments], Output],
        *arguments: *Arguments,
    ) -> Output:
        """Run a stage as `run_stage` does.

        If the stage fails, returns `default` and appends the reason to `reasons`.
        """
        try:
            return self.run_stage(stage, function, *arguments)
        except StageSkipped as error:
            reasons.append(str(error))
            return default

    def run_in_pool(
        self,
        pool: ThreadPool,
        function: Callable[[], None],
        first_stage: str = "",
        first_stage_timeout_ms: float = math.inf,
    ) -> str:
        """Run `function` in a pool thread until the slate reserve. Returns "", or why it was abandoned.

        If `function` begins with `first_stage`, the wait for a thread and this stage may take
        `first_stage_timeout_ms`. After that the caller abandons `function`, and `new_attempt` has the
        remaining time.
        With an infinite deadline `function` runs in the calling thread.
        """
        if self.is_infinite:
            function()
            return ""
        self.stage_start_ms = self.elapsed_ms()
        remaining_ms = self.remaining_ms()
        if not remaining_ms > SLATE_RESERVE_MS:  # also for a deadline that is NaN
            return f"too little time was left: {max(0.0, remaining_ms):.1f} ms"
        try:
            task = pool.submit(function)
        except RuntimeError as error:
            return error_message(error)
        while True:
            first_stage_left_ms = (
                math.inf
                if self._stage_times
                else first_stage_timeout_ms - (self.elapsed_ms() - self.stage_start_ms)
            )
            # At least 1 ms: the stage may begin late, and its timeout with it.
            wait_ms = min(self.remaining_ms() - SLATE_RESERVE_MS, max(first_stage_left_ms, 1.0), MAX_WAIT_MS)
            if task.wait(wait_ms / 1e3 if wait_ms > 0 else 0.0):  # 0 also for a deadline that is NaN
                return ""
            if reason := self._abandon_if_late(task, first_stage, first_stage_timeout_ms):
                return reason

    def _abandon_if_late(self, task: Task, first_stage: str, first_stage_timeout_ms: float) -> str:
        """Abandon the task if its time is over. Returns the reason, or "" to keep waiting."""
        with self._abandon_lock:
            stage, duration_ms = self.current_stage, self.elapsed_ms() - self.stage_start_ms
            out_of_time = not self.remaining_ms() > SLATE_RESERVE_MS
            first_stage_pending = not self._stage_times and stage in ("", first_stage)
            first_stage_late = first_stage_pending and duration_ms >= first_stage_timeout_ms
            if not out_of_time and not first_stage_late:
                return ""
            if task.cancel():
                return f"no thread was free for {duration_ms:.0f} ms"
            first_stage_timed_out = first_stage_late and stage == first_stage
            if not out_of_time and not first_stage_timed_out:
                return ""  # a thread has the task, and its first stage has not begun
            self.is_abandoned = True
            if stage:
                self.stage_stats.breakers[stage].record_abandoned()
        # A stage that began late is not at fault: the machine is slow.
        if stage and (first_stage_timed_out or duration_ms > STALL_FRACTION * self.deadline_ms):
            self.stage_stats.breakers[stage].record_failure(duration_ms / 1e3)
        if not first_stage_timed_out:
            return f"{stage or 'between two stages'}: not done after {self.elapsed_ms():.0f} ms"
        self._abandoned_stage_times = [(stage, duration_ms)]
        return f"{stage}: not done after {duration_ms:.0f} ms"

    def new_attempt(self) -> "Deadline":
        """The same deadline for another attempt, after this one was abandoned."""
        deadline = Deadline(self.deadline_ms, self.stage_stats, self.start_time)
        deadline._stage_times = self._abandoned_stage_times
        return deadline

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage, and `total`."""
        return {**dict(self._stage_times[:]), "total": self.elapsed_ms()}


def finite_output(module: Any, *arguments: Any) -> Any:
    """The output of a module. Raises StageSkipped if a number in it is not finite."""
    output = module(*arguments)
    for tensor in (output,) if isinstance(output, Tensor) else output:
        if not tensor.is_floating_point() or math.isfinite(tensor.numpy().sum()):
            continue  # a finite sum proves finite numbers
        if not np.isfinite(tensor.numpy()).all():
            raise StageSkipped("its output is not finite")
    return output


def error_message(error: Exception) -> str:
    """Returns one line: a StageSkipped's message, else the error's type and the last line of its message."""
    if isinstance(error, StageSkipped):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
