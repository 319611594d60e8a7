"""Serving a million items: latency by stage beside its floor, with parts that fail, and over HTTP under load.

    python -m benchmarks.serving               a million items: some 12 minutes on 2 cores, most of it once
    python -m benchmarks.serving 100_000       fewer

A shop of so many items is written, trained on for a minute and exported (kept in artifacts/bench_serving).
Users have 200 events of history in the store. The floor of a request is the bare index search, query tower
and ranker on ready tensors. In process everything is on one core and the deadline is 100 ms; over HTTP two
workers, the client and its open loop share the machine. Writes `reports/bench_serving.json`, a row per
scenario, and `reports/bench_serving.html` with the pictures. Keep the machine quiet.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks import large_shop, serving_http
from training import runtime

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "artifacts" / "bench_serving"
REPORT = ROOT / "reports" / "bench_serving.json"
N_REQUESTS, WARM_UP, FAULT_REQUESTS, INTERLEAVE_SIZE = 2_000, 100, 300, 100
SHORT_TRAINING = ("retrieval.train.epochs=1", "retrieval.train.min_steps=1", "ranker.train.epochs=1",
    "ranker.train.min_steps=1", "ranker.train.max_checkouts=3000")  # fmt: skip


def main(items: int) -> None:
    from reporting import tables  # after console.set_up: they load torch
    from reporting.serving_page import serving_page

    bundle = build_bundle(items)
    rows = []
    for part in SUBCOMMANDS:
        command = [sys.executable, "-m", "benchmarks.serving", part, str(bundle)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        rows += [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    rows += serving_http.measure_scenarios(bundle, large_shop.USERS)
    tables.write_json(rows, REPORT)
    about = (
        f"{items:,} items, {large_shop.USERS:,} users with 200 events, {os.cpu_count()} cores. In process "
    )
    about += "everything is on one of them; over HTTP the client shares them with two workers."
    REPORT.with_suffix(".html").write_text(serving_page(rows, f"Serving {items:,} items", about))
    shown = [
        {name: value for name, value in row.items() if name not in ("stages", "over_time")} for row in rows
    ]
    print(tables.text_table(shown))
    for row in rows:
        if "stages" in row:
            print(tables.text_table([{"stage": name, **taken} for name, taken in row["stages"].items()]))
    print(f"written: {REPORT}")


def build_bundle(items: int) -> Path:
    """The root of a bundle over a shop of `items`, trained so that its numbers are those of a model."""
    folder = FOLDER / str(items)
    bundle = folder / "bundle"
    if not (bundle / "current").exists():
        shop = large_shop.write_shop(items, folder / "shop")
        runs = [f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}"]
        tracking = f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}"
        run_script("train.py", "data=tables", f"data.root={shop}", *runs, tracking, *SHORT_TRAINING)
        run_script("export.py", f"run={folder / 'runs' / 'latest'}", f"bundle.dir={bundle}", tracking)
    return bundle


def run_script(*arguments: str) -> None:
    print(" ".join(arguments), flush=True)
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT)


def random_checkouts(recommender: Any, count: int, seed: int = 0) -> list[Any]:
    """Checkouts of random users of the store with baskets of five lines, at the end of the data."""
    from serving import Checkout, Line

    rng = np.random.default_rng(seed)
    now = recommender.bundle.manifest["data"]["window"]["end"]
    sold = np.flatnonzero(recommender.bundle.available & (recommender.bundle.fallback_rank >= 0))
    users = rng.integers(0, large_shop.USERS, count)
    baskets = rng.choice(sold, (count, 5))
    ids = recommender.bundle.item_id
    return [
        Checkout(f"u{user}", [Line(ids[row].as_py()) for row in basket], ts=now)
        for user, basket in zip(users, baskets, strict=True)
    ]


def measure_latency(root: Path) -> None:
    """Rows of the scenarios in process; this process keeps to one core."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    started = time.perf_counter()
    from serving import Recommender

    recommender = Recommender.load(root, root / "store.arrow")
    ready = time.perf_counter() - started
    asked = random_checkouts(recommender, N_REQUESTS + WARM_UP)
    begun = time.perf_counter()
    recommender.recommend(asked[0])
    first = 1e3 * (time.perf_counter() - begun)
    for checkout in asked[1:WARM_UP]:
        recommender.recommend(checkout)
    made_ready = encode_requests(recommender, asked[WARM_UP:])
    slates, taken, bare = [], [], []
    for start in range(
        0, N_REQUESTS, INTERLEAVE_SIZE
    ):  # the machine's speed changes: the two are measured in turn
        for checkout in asked[WARM_UP + start : WARM_UP + start + INTERLEAVE_SIZE]:
            begun = time.perf_counter()
            slates.append(recommender.recommend(checkout))
            taken.append(1e3 * (time.perf_counter() - begun))
        bare += floor_latencies(recommender, made_ready[start : start + INTERLEAVE_SIZE])
    stages = {
        name: {
            f"p{q}_ms": round(float(np.percentile([s.timings[name] for s in slates], q)), 3) for q in (50, 99)
        }
        for name in slates[0].timings
    }
    row = summary_row("in process, one client", taken, slates) | {
        "floor_ms": round(float(np.median(bare)), 3),
        "p50_over_floor": round(float(np.median(taken) / np.median(bare)), 3),
        "first_ms": round(first, 3),
        "ready_s": round(ready, 2),
        "stages": stages,
    }
    print(json.dumps(row), flush=True)


def measure_faults(root: Path) -> None:
    """Rows of what a request costs while a part fails, on one core; each with a recommender of its own."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    import torch

    from serving import Recommender

    def stalls(*_: Any) -> Any:
        time.sleep(1)
        raise OSError("late")

    def throws(*_: Any) -> Any:
        raise RuntimeError("out of order")

    recommender = Recommender.load(root, root / "store.arrow")
    asked = random_checkouts(recommender, FAULT_REQUESTS, seed=1)
    bundle: Any = recommender.bundle
    store = recommender.store

    def not_a_number(*arguments: Any) -> Any:
        return tuple(torch.full_like(part, math.nan) for part in bundle.ranker(*arguments))

    parts: list[tuple[str, Any, Any]] = [
        ("store stalls for a second", SimpleNamespace(get=stalls), bundle),
        ("store throws", SimpleNamespace(get=throws), bundle),
        ("store returns garbage", SimpleNamespace(get=lambda _: {"what": "ever"}), bundle),
        ("index throws", store, replace(bundle, index=SimpleNamespace(search=throws))),
        ("index stalls for a second", store, replace(bundle, index=SimpleNamespace(search=stalls))),
        ("ranker throws", store, replace(bundle, ranker=throws)),
        ("ranker gives no numbers", store, replace(bundle, ranker=not_a_number)),
        ("ranker stalls for a second", store, replace(bundle, ranker=stalls)),
    ]
    for name, its_store, its_bundle in parts:
        broken = Recommender(its_bundle, its_store)
        broken.stage_stats.expected_ms = recommender.stage_stats.expected_ms
        slates, taken = [], []
        for checkout in asked:
            begun = time.perf_counter()
            slates.append(broken.recommend(checkout))
            taken.append(1e3 * (time.perf_counter() - begun))
        print(json.dumps(summary_row(name, taken, slates)), flush=True)


def measure_loading(root: Path) -> None:
    """A row of what those who ask feel while another version is loaded beside the one that answers: for how
    long at a time a thread that wants to run every millisecond cannot."""
    from serving import Recommender
    from serving.http.app import SWITCH_INTERVAL

    sys.setswitchinterval(SWITCH_INTERVAL)
    first = Recommender.load(root, root / "store.arrow")
    done, waited = threading.Event(), [0.0]

    def tick() -> None:
        while not done.is_set():
            slept = time.perf_counter()
            time.sleep(0.001)
            waited.append(1e3 * (time.perf_counter() - slept) - 1)

    ticking = threading.Thread(target=tick)
    ticking.start()
    begun = time.perf_counter()
    Recommender.load(root, root / "store.arrow")
    taken = time.perf_counter() - begun
    done.set()
    ticking.join()
    row = {
        "scenario": f"{first.bundle.version} is loaded again, beside itself",
        "load_s": round(taken, 2),
        "longest_wait_ms": round(max(waited), 1),
        "p99_wait_ms": round(float(np.percentile(waited, 99)), 1),
        **serving_http.memory_mb(os.getpid()),
    }
    print(json.dumps(row), flush=True)


def encode_requests(recommender: Any, asked: list[Any]) -> list[tuple[Any, Any]]:
    """Query and candidates of each request. Made long before they are used: what was worked on a moment ago
    lies in the processor's caches, and in a stream nothing does."""
    import torch

    bundle, ready = recommender.bundle, []
    with torch.inference_mode():
        for checkout in asked:
            query = recommender.encoder(checkout, recommender.store.get(checkout.user_id), checkout.ts)
            vector = bundle.query_tower(query, bundle.catalog[-1])
            near = torch.from_numpy(bundle.index.search(vector.numpy(), recommender.ann))
            ready.append((query, bundle.candidates(query, vector, near, bundle.catalog)))
    return ready


def floor_latencies(recommender: Any, ready: list[tuple[Any, Any]]) -> list[float]:
    """Milliseconds of the bare query tower, search and ranker of each request, on ready tensors."""
    import torch

    bundle, taken = recommender.bundle, []
    with torch.inference_mode():
        for query, found in ready:
            begun = time.perf_counter()
            vector = bundle.query_tower(query, bundle.catalog[-1])
            bundle.index.search(vector.numpy(), recommender.ann)
            bundle.ranker(query, vector, found, bundle.catalog)
            taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def summary_row(
    scenario: str, taken: list[float], slates: list[Any], seconds: float | None = None
) -> dict[str, Any]:
    """One row: percentiles of `taken` [n] milliseconds, and what the slates are."""
    quantiles = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "p999_ms": 99.9}
    six = [len({item.item_id for item in slate.items}) == 6 for slate in slates]
    return {
        "scenario": scenario,
        **{name: round(float(np.percentile(taken, q)), 3) for name, q in quantiles.items()},
        "requests_per_s": round(len(taken) / (seconds or sum(taken) / 1e3), 1),
        "six_share": float(np.mean(six)),
        "tiers": dict(Counter(slate.tier for slate in slates)),
        **serving_http.memory_mb(os.getpid()),
    }


SUBCOMMANDS = {
    "measure": measure_latency,
    "faults": measure_faults,
    "loading": measure_loading,
}  # each in a process of its own

if __name__ == "__main__":
    runtime.set_up_process()
    if len(sys.argv) > 2:
        SUBCOMMANDS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
