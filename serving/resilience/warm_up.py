"""Sends a recommender its first requests.

The first pass measures the time of each stage. Then, in each pool, up to one thread per core answers a
request.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from .deadline import StageStats
from .thread_pool import ThreadPool

Request = TypeVar("Request")
FEW_REQUESTS = 50  # with fewer, each is answered twice


def warm_up(
    requests: Sequence[Request],
    answer: Callable[[Request], Mapping[str, float]],
    stage_stats: StageStats,
    pools: Sequence[ThreadPool],
) -> None:
    """Measure the usual time of every stage. Then let threads of every pool answer a request.

    The number of threads is the same in each pool: one per core, or fewer if the smallest pool has fewer.

    Args:
        answer: request → milliseconds by stage.
    """
    durations: dict[str, list[float]] = {stage: [] for stage in stage_stats.expected_ms}
    for request in [*requests] * (2 if len(requests) < FEW_REQUESTS else 1):
        timings = answer(request)
        for stage, times in durations.items():
            times.append(timings.get(stage, 0.0))
    stage_stats.expected_ms = {stage: median(times) if times else 0.0 for stage, times in durations.items()}
    n_cores = min(os.cpu_count() or 1, *(pool.max_threads for pool in pools))
    barrier = threading.Barrier(len(pools) * n_cores)

    def answer_first() -> None:
        barrier.wait()  # no thread takes two tasks
        answer(requests[0])

    for task in [pool.submit(answer_first) for pool in pools for _ in range(n_cores)]:
        task.wait()
