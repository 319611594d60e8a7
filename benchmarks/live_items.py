"""Measures the latency and the memory that live items cost, with 10,000 changes of a bundle.

    python -m benchmarks.live_items artifacts/bench_serving/bundle    any bundle root with a store

Requests run one after the other in this process, as in `python -m benchmarks.serving`.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.commands import Row, print_rows, run_benchmark
from benchmarks.serving_in_process import random_checkouts, recommend_timed
from benchmarks.summaries import latency_percentiles
from serving import Recommender
from serving.command_line import argument
from serving.http.item_updates import ItemUpdates

PROG = "python -m benchmarks.live_items"
N_REQUESTS, WARM_UP, N_CHANGES = 1_000, 100, 10_000


@dataclass(frozen=True, kw_only=True)
class LiveItemsOptions:
    """Measure the cost of live items: latency of requests, memory of a worker, and time to apply changes."""

    bundle: Path = argument("a bundle root with a store.arrow")


def benchmark(options: LiveItemsOptions) -> int:
    """Measure and print the rows."""
    recommender = Recommender.load(options.bundle, options.bundle / "store.arrow")
    rng = np.random.default_rng(0)
    available = np.flatnonzero(recommender.bundle.available)
    ids = [recommender.bundle.item_id[row].as_py() for row in rng.permutation(available)[:N_CHANGES]]
    rows = [measure(recommender, "no live items")]
    scenarios: dict[str, dict[str, dict[str, Any]]] = {
        "100 items out of stock": {item_id: {"available": False} for item_id in ids[:100]},
        f"{len(ids):,} new prices": {item_id: {"price": 9.99} for item_id in ids},
        f"{len(ids):,} items out of stock": {item_id: {"available": False} for item_id in ids},
        f"{len(ids):,} items back": {item_id: {} for item_id in ids},
    }
    updates = ItemUpdates()
    updates.attach(recommender)
    live_items = updates.open(recommender)
    for name, fields in scenarios.items():
        before, started = private_mb(), time.perf_counter()
        live_items.apply(fields)
        seconds = time.perf_counter() - started
        memory = {"apply_ms": round(1e3 * seconds, 1), "private_mb": round(private_mb() - before, 1)}
        rows.append(measure(recommender, name) | memory)
    print_rows(rows)
    return 0


def measure(recommender: Recommender, name: str) -> Row:
    """The latencies of the same checkouts in each scenario."""
    checkouts = random_checkouts(recommender, N_REQUESTS + WARM_UP)
    recommender.slate_cache.clear()
    recommender.query_vector_cache.clear()
    recommend_timed(recommender, checkouts[:WARM_UP])
    _, latencies = recommend_timed(recommender, checkouts[WARM_UP:])
    return {"scenario": name, **latency_percentiles(latencies, 3)}


def private_mb() -> float:
    """MB of memory that only this process uses, including copied pages of mapped files."""
    (line,) = (
        line
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
        if line.startswith("Anonymous:")
    )
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark))
