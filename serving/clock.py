"""The deadline of a request: which stages start, how long they take, and why one was passed over."""

import time
from typing import Any

import torch
from torch import Tensor


class Skipped(Exception):
    """A stage was not started or gave nothing to go on with; the message is the reason."""


class Clock:
    """One monotonic deadline and the time of each stage."""

    def __init__(self, deadline_ms: float, expected: dict[str, float]) -> None:
        self.started = time.perf_counter()
        self.deadline_ms = deadline_ms
        self.expected = expected
        self.timings: dict[str, float] = {}

    def elapsed(self) -> float:
        return 1e3 * (time.perf_counter() - self.started)

    def run(self, stage: str, function: Any, *arguments: Any) -> Any:
        """Run a stage if there is time. Raises Skipped with the stage's name and the reason."""
        before = self.elapsed()
        left = self.deadline_ms - before
        if not left > self.expected[stage]:
            raise Skipped(f"{stage}: {left:.1f} ms left, it takes {self.expected[stage]:.1f}")
        try:
            return function(*arguments)
        except Exception as error:
            raise Skipped(f"{stage}: {reason_of(error)}") from error
        finally:
            self.timings[stage] = self.elapsed() - before

    def optional(self, stage: str, otherwise: Any, reasons: list[str], function: Any, *arguments: Any) -> Any:
        """As `run`, but a stage that fails leaves `otherwise` and its reason."""
        try:
            return self.run(stage, function, *arguments)
        except Skipped as error:
            reasons.append(str(error))
            return otherwise

    def finish(self) -> dict[str, float]:
        return {**self.timings, "total": self.elapsed()}


def finite(module: Any, *arguments: Any) -> Any:
    """Call a module; raises Skipped if a number of its output is not finite."""
    output = module(*arguments)
    for tensor in (output,) if isinstance(output, Tensor) else output:
        if not torch.isfinite(tensor).all():
            raise Skipped("its output is not finite")
    return output


def reason_of(error: Exception) -> str:
    """One line: the message of a Skipped, else the error's type and the last line of its message."""
    if isinstance(error, Skipped):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"
