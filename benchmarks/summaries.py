"""Figures of a stream of requests: latency percentiles, complete slates, and memory of processes."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

PERCENTILES = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9}


def latency_percentiles(latencies_ms: Sequence[float], digits: int) -> dict[str, float]:
    """Return column name → latency percentile; NaN without requests."""
    values = latencies_ms or [float("nan")]
    return {name: round(float(np.percentile(values, q)), digits) for name, q in PERCENTILES.items()}


def six_item_share(slates: Sequence[Collection[str]]) -> float:
    """The share of slates, given as item ids, that have six distinct items; 0 without slates."""
    return float(np.mean([len(set(item_ids)) == 6 for item_ids in slates])) if slates else 0.0


def memory_mb(pid: int) -> dict[str, int]:
    """Return the resident MB of a process and its children.

    `rss_mb` counts a shared page once for each process. `pss_mb` counts it once in total: each of n processes
    has 1/n of it (Linux, smaps_rollup).
    """
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        pids += [int(child) for child in (task / "children").read_text().split()]
    kb: Counter[str] = Counter()
    for process_id in pids:
        for line in Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()[1:]:
            name, size, _ = line.split()
            kb[name] += int(size)
    return {"rss_mb": kb["Rss:"] // 1024, "pss_mb": kb["Pss:"] // 1024}
