"""The in-process scenarios of benchmarks/serving.py: latency by stage, failing stages, loading a version.

Each scenario runs in a separate process. The floor of a request is the time of the bare query tower, index
search and ranker on encoded tensors.
"""

import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import large_shop
from benchmarks.commands import Row, measure_in_subprocess
from benchmarks.summaries import latency_percentiles, memory_mb, six_item_share
from serving import Checkout, Line, Recommender, Slate

N_REQUESTS, WARM_UP, FAULT_REQUESTS, INTERLEAVE_SIZE = 2_000, 100, 300, 100
STARTUP_SCRIPT = """
import json, sys, time
from pathlib import Path
import numpy, pyarrow.parquet
started = time.perf_counter()
from serving import Recommender
root = Path(sys.argv[1])
Recommender.load(root, root / "store.arrow")
print(json.dumps({"startup_s": round(time.perf_counter() - started, 2)}))
"""


class EncodedRequest(NamedTuple):
    """The inputs of the query tower and of the ranker."""

    query: tuple[torch.Tensor, ...]
    candidates: tuple[torch.Tensor, ...]


def measure_latency(root: Path) -> Row:
    """Measure requests without concurrency: latency, the floor, the stages and the start-up time."""
    (startup,) = measure_in_subprocess(sys.executable, "-c", STARTUP_SCRIPT, root)
    recommender = Recommender.load(root, root / "store.arrow")
    checkouts = random_checkouts(recommender, N_REQUESTS + WARM_UP)
    _, (first_ms, *_) = recommend_timed(recommender, checkouts[:WARM_UP])
    measured = checkouts[WARM_UP:]
    encoded = encode_requests(recommender, measured)
    slates: list[Slate] = []
    latencies: list[float] = []
    floors: list[float] = []
    for start in range(0, N_REQUESTS, INTERLEAVE_SIZE):  # in turns, because the machine's speed changes
        part = slice(start, start + INTERLEAVE_SIZE)
        part_slates, part_latencies = recommend_timed(recommender, measured[part])
        slates += part_slates
        latencies += part_latencies
        floors += floor_latencies(recommender, encoded[part])
    return summary_row("in process, one client", latencies, slates) | {
        "floor_ms": round(float(np.median(floors)), 3),
        "p50_over_floor": round(float(np.median(latencies) / np.median(floors)), 3),
        "first_request_ms": round(first_ms, 3),
        **startup,
        "stages": stage_percentiles(slates),
    }


def measure_faults(root: Path) -> Iterator[Row]:
    """Yield a row per fault: latencies and tiers during the fault. Each fault has a new recommender."""
    recommender = Recommender.load(root, root / "store.arrow")
    checkouts = random_checkouts(recommender, FAULT_REQUESTS, seed=1)
    for scenario, (store, bundle) in faulty_parts(recommender).items():
        faulty = Recommender(bundle, store)
        faulty.stage_stats.expected_ms = recommender.stage_stats.expected_ms
        slates, latencies = recommend_timed(faulty, checkouts)
        yield summary_row(scenario, latencies, slates)


def faulty_parts(recommender: Recommender) -> dict[str, tuple[Any, Any]]:
    """Return scenario → (store, bundle). In each pair, the store or a part of the bundle fails."""
    bundle, store = recommender.bundle, recommender.store

    def stall(*_: Any) -> Any:
        time.sleep(1)
        raise OSError("late")

    def fail(*_: Any) -> Any:
        raise RuntimeError("out of order")

    def return_nan(*arguments: Any) -> Any:
        return torch.full_like(bundle.ranker(*arguments), math.nan)

    def with_store(get: Any) -> tuple[Any, Any]:
        return SimpleNamespace(get=get), bundle

    def with_index(search: Any) -> tuple[Any, Any]:
        index: Any = SimpleNamespace(search=search)
        return store, replace(bundle, index=index)

    return {
        "store stalls for a second": with_store(stall),
        "store throws": with_store(fail),
        "store returns garbage": with_store(lambda _: {"what": "ever"}),
        "index throws": with_index(fail),
        "index stalls for a second": with_index(stall),
        "ranker throws": (store, replace(bundle, ranker=fail)),
        "ranker gives no numbers": (store, replace(bundle, ranker=return_nan)),
        "ranker stalls for a second": (store, replace(bundle, ranker=stall)),
    }


def measure_loading(root: Path) -> Row:
    """Measure how loading a version delays a waiting thread, while another version serves.

    The waiting thread tries to run every millisecond.
    """
    from serving.http.app import SWITCH_INTERVAL

    sys.setswitchinterval(SWITCH_INTERVAL)
    serving_version = Recommender.load(root, root / "store.arrow")
    is_loaded, waits_ms = threading.Event(), [0.0]

    def tick() -> None:
        while not is_loaded.is_set():
            slept = time.perf_counter()
            time.sleep(0.001)
            waits_ms.append(1e3 * (time.perf_counter() - slept) - 1)

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    Recommender.load(root, root / "store.arrow")
    seconds = time.perf_counter() - started
    is_loaded.set()
    thread.join()
    return {
        "scenario": f"{serving_version.bundle.version} is loaded while it serves",
        "load_s": round(seconds, 2),
        "max_wait_ms": round(max(waits_ms), 1),
        "p99_wait_ms": round(float(np.percentile(waits_ms, 99)), 1),
        **memory_mb(os.getpid()),
    }


def random_checkouts(recommender: Recommender, count: int, seed: int = 0) -> list[Checkout]:
    """Checkouts of random users of the store with baskets of five lines, at the end of the data."""
    rng = np.random.default_rng(seed)
    bundle = recommender.bundle
    ts = bundle.manifest["data"]["window"]["end"]
    rows = np.flatnonzero(bundle.available & (bundle.fallback_rank >= 0))
    users = rng.integers(0, large_shop.USERS, count)
    baskets = rng.choice(rows, (count, 5))
    return [
        Checkout(f"u{user}", [Line(bundle.item_id[row].as_py()) for row in basket], ts=ts)
        for user, basket in zip(users, baskets, strict=True)
    ]


def recommend_timed(
    recommender: Recommender, checkouts: Sequence[Checkout]
) -> tuple[list[Slate], list[float]]:
    """Recommend for one checkout after the other; return the slates, and the milliseconds of each."""
    slates, latencies = [], []
    for checkout in checkouts:
        started = time.perf_counter()
        slates.append(recommender.recommend(checkout))
        latencies.append(1e3 * (time.perf_counter() - started))
    return slates, latencies


def encode_requests(recommender: Recommender, checkouts: Sequence[Checkout]) -> list[EncodedRequest]:
    """The encoded query and candidates of each request.

    All requests are encoded first, so that their tensors have left the processor's caches when they are used,
    as in a stream of requests.
    """
    bundle, encoded = recommender.bundle, []
    assert recommender.store is not None
    with torch.inference_mode():
        for checkout in checkouts:
            assert checkout.user_id is not None
            assert checkout.ts is not None
            history = recommender.store.get(checkout.user_id)
            query = recommender.feature_encoder.encode(checkout, history, checkout.ts)
            vector = bundle.query_tower(query, bundle.catalog[-1])
            rows = torch.from_numpy(bundle.index.search(vector.numpy(), recommender.n_ann_candidates))
            candidates = bundle.candidates(query, vector, rows, bundle.catalog)
            encoded.append(EncodedRequest(query, candidates))
    return encoded


def floor_latencies(recommender: Recommender, encoded: Sequence[EncodedRequest]) -> list[float]:
    """Milliseconds of the bare query tower, search and ranker for each request."""
    bundle, latencies = recommender.bundle, []
    with torch.inference_mode():
        for query, candidates in encoded:
            started = time.perf_counter()
            vector = bundle.query_tower(query, bundle.catalog[-1])
            bundle.index.search(vector.numpy(), recommender.n_ann_candidates)
            bundle.ranker(query, vector, candidates, bundle.catalog)
            latencies.append(1e3 * (time.perf_counter() - started))
    return latencies


def stage_percentiles(slates: Sequence[Slate]) -> dict[str, dict[str, float]]:
    """Return stage → median and 99th percentile of its milliseconds, over the slates that ran the stage."""
    by_stage: dict[str, list[float]] = {}
    for slate in slates:
        for stage, milliseconds in slate.timings.items():
            by_stage.setdefault(stage, []).append(milliseconds)
    return {
        stage: {f"p{q}_ms": round(float(np.percentile(times, q)), 3) for q in (50, 99)}
        for stage, times in by_stage.items()
    }


def summary_row(scenario: str, latencies: Sequence[float], slates: Sequence[Slate]) -> Row:
    """Return the row of a scenario: latency percentiles in milliseconds, and the tiers of the slates."""
    return {
        "scenario": scenario,
        **latency_percentiles(latencies, 3),
        "requests_per_s": round(len(latencies) / (sum(latencies) / 1e3), 1),
        "six_share": six_item_share([[item.item_id for item in slate.items] for slate in slates]),
        "tiers": dict(Counter(slate.tier for slate in slates)),
        **memory_mb(os.getpid()),
    }
