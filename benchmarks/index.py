"""Compares the retrieval index with hnswlib, usearch and voyager: recall, time, bytes and updates.

    python -m benchmarks.index                       a million vectors: about 25 minutes on 2 cores
    python -m benchmarks.index 100_000               fewer vectors
    python -m benchmarks.index build 10_000_000 4    time and memory of a build in four shards

Unit vectors of 64 dimensions lie in clusters of intrinsic dimension 16, with noise. 500 queries run one by
one on one thread. Exact search over float32 gives the true neighbours for recall@300. The other libraries are
installed from PyPI into a separate environment. All systems run one after the other, so keep the machine
quiet. At the end, the tuner's choice and hnswlib's fastest setting with the target recall run alternately,
because a machine's speed often changes within half an hour. Writes `reports/bench_index.json` (a row per
system and setting) and the page `reports/bench_index.html`.
"""

import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray

from benchmarks import peer_environments
from benchmarks.commands import (
    ARTIFACTS,
    REPORTS,
    ROOT,
    Row,
    measure_in_subprocess,
    print_rows,
    run_benchmark,
)
from exporting.index import tuning
from exporting.index.build import (
    BLOCK_SIZE,
    add_vectors,
    exact_search,
    int8_vector_reader,
    measure_search,
    read_shards,
    train_index,
    tune_search_params,
    write_shards,
)
from exporting.index.families import FAMILIES, find_family
from models.embeddings import pack_int8
from reporting.index_page import index_page, pareto_front
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json, write_text
from serving.storage.vector_index import ItemIndex, SearchParams
from training.config_files import CONFIG_DIR

PROG = "python -m benchmarks.index"
FOLDER = ARTIFACTS / "bench_index"
REPORT = REPORTS / "bench_index.json"
BASELINE_PACKAGES = ("hnswlib==0.8.0", "usearch==2.26.6", "voyager==2.2.3")
BASELINES = ("hnswlib", "usearch", "voyager")
N_VECTORS, N_QUERIES, K = 1_000_000, 500, 300
DIM, INTRINSIC_DIM, N_CLUSTERS, CLUSTER_STD, NOISE_STD = 64, 16, 500, 0.7, 0.1
TARGETS: dict[str, Any] = {"recall": 0.985, "p99_ms": None, "bytes_per_vector": 80}
N_CHANGES = 10_000
ROUNDS = 5  # of the comparison with hnswlib


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Compare the retrieval index with hnswlib, usearch and voyager: recall, time, bytes and updates.

    `build`, with the numbers of vectors and shards, takes the place of `vectors` and measures only one build.
    """

    vectors: int = argument("number of vectors", default=N_VECTORS)


def benchmark(options: IndexOptions) -> int:
    """Measure all systems and write the report."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    python = peer_environments.create_environment(
        FOLDER / "peers", ["numpy", *BASELINE_PACKAGES], ", ".join(BASELINES)
    )
    vectors, queries = random_dataset(options.vectors)
    truth = exact_neighbours(vectors, queries)
    for name, array in (("vectors", vectors), ("queries", queries), ("truth", truth)):
        np.save(FOLDER / f"{name}.npy", array)
    tuned = tune_index(vectors, queries, truth, FOLDER / "sextet")
    rows, update_row = sweep_rows(tuned), measure_updates(tuned, vectors, queries)
    comparison: list[Row] = []
    if python:
        for system in BASELINES:
            baseline_rows = measure_baseline(python, system)
            print(text_table(baseline_rows), flush=True)
            rows += baseline_rows
        comparison = compare_with_hnswlib(tuned, vectors, queries, truth, python, rows)
    write_json(REPORT, [*rows, *comparison, update_row])
    introduction = f"{options.vectors:,} vectors, recall@{K} of exact search, {N_QUERIES} queries one by one "
    introduction += "on one thread."
    page = index_page(rows, "The retrieval index and its peers", introduction)
    write_text(REPORT.with_suffix(".html"), page)
    for table in (pareto_front(rows), comparison, [update_row]):
        print(text_table(table), flush=True)
    print(f"written: {REPORT}")
    return 0


def random_dataset(count: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Vectors [count, DIM] and queries [N_QUERIES, DIM], float32 of unit length."""
    sample = vector_sampler(seed)
    return sample(count), sample(N_QUERIES)


def vector_sampler(seed: int = 0) -> Callable[[int], NDArray]:
    """A function that draws n more vectors [n, DIM]."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(DIM, INTRINSIC_DIM)))[0].T.astype(
        np.float32
    )  # [INTRINSIC_DIM, DIM]
    centres = rng.normal(size=(N_CLUSTERS, INTRINSIC_DIM)).astype(np.float32)

    def sample(n: int) -> NDArray:
        clusters = rng.integers(0, N_CLUSTERS, n)
        offsets = rng.normal(size=(n, INTRINSIC_DIM)).astype(np.float32)
        intrinsic = centres[clusters] + CLUSTER_STD * offsets
        vectors = intrinsic @ basis + NOISE_STD * rng.normal(size=(n, DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return sample


def exact_neighbours(vectors: NDArray, queries: NDArray) -> NDArray:
    """Return the rows [N_QUERIES, K] of the vectors with the largest inner products, computed in float32."""
    return exact_search(lambda rows: vectors[rows], np.arange(len(vectors)), queries, K)


def pack_vectors(vectors: NDArray) -> NDArray:
    """The vectors in row-wise int8 format: [n, DIM+8] uint8."""
    return pack_int8(torch.from_numpy(vectors)).numpy()


def tune_index(vectors: NDArray, queries: NDArray, truth: NDArray, folder: Path) -> tuning.TuningResult:
    """The result of `index=auto` for the vectors and TARGETS; the index files stay in `folder`."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("export", overrides=["index=auto"]).index
    cfg.update(TARGETS)
    shutil.rmtree(folder, ignore_errors=True)
    ids, packed = np.arange(len(vectors)), pack_vectors(vectors)
    return tuning.tune_index(lambda rows: vectors[rows], packed, ids, queries, truth, cfg, folder)


def sweep_rows(tuned: tuning.TuningResult) -> list[Row]:
    """A row per family and setting; the tuner's choice is marked."""
    return [{**row, "system": f"sextet {row['system']}"} for row in tuning.trial_rows(tuned)]


def measure_baseline(python: Path, system: str, *ef_search: str) -> list[Row]:
    """Measure a library: a new index at every search effort, or the saved index at one `ef_search`."""
    script = ROOT / "benchmarks" / "index_peers.py"
    return measure_in_subprocess(python, script, system, FOLDER, *ef_search)


def compare_with_hnswlib(
    tuned: tuning.TuningResult, vectors: NDArray, queries: NDArray, truth: NDArray, python: Path,
    rows: list[Row],
) -> list[Row]:  # fmt: skip
    """Rows that compare the tuner's choice with hnswlib's fastest setting that reaches the recall target.

    The two indexes run alternately, ROUNDS times each. Each index has a row with its medians and the ratio of
    the two times. If no setting of hnswlib reaches the target, there are no rows.
    """
    eligible = [row for row in rows if row["system"] == "hnswlib" and row["recall"] >= TARGETS["recall"]]
    if not eligible:
        return []
    baseline = min(eligible, key=lambda row: row["p50_ms"])
    ef_search = baseline["params"].split("ef ")[1].split(",")[0]
    trial = tuned.best_trial
    index = ItemIndex(read_shards(tuned.files), pack_vectors(vectors), trial.search_params)
    metrics, baseline_rounds = [], []
    for _ in range(ROUNDS):
        metrics.append(measure_search(index, queries, truth))
        baseline_rounds += measure_baseline(python, "hnswlib", ef_search)
    sextet = {
        "system": f"sextet {trial.family}",
        "recall": round(metrics[0].recall, 4),
        "p50_ms": round(float(np.median([each.p50_ms for each in metrics])), 4),
        "p99_ms": round(float(np.median([each.p99_ms for each in metrics])), 4),
        "bytes_per_vector": round(trial.bytes_per_vector, 1),
    }
    hnswlib = {name: baseline_rounds[0][name] for name in sextet} | {
        name: round(float(np.median([row[name] for row in baseline_rounds])), 4)
        for name in ("p50_ms", "p99_ms")
    }
    ratio = round(sextet["p50_ms"] / hnswlib["p50_ms"], 3)
    params = f"{ROUNDS} rounds in turn"
    return [{**sextet, "params": params, "p50_ratio": ratio}, {**hnswlib, "params": params, "p50_ratio": 1.0}]


def measure_updates(tuned: tuning.TuningResult, vectors: NDArray, queries: NDArray) -> Row:
    """Measure the speed and the effect of changes.

    N_CHANGES items are removed, N_CHANGES moved and N_CHANGES added. `recall` is relative to exact search
    over the changed items. `recall_rebuilt` is the recall of an index that is newly built over the changed
    items and searched with the same effort.
    """

    def read_vectors(rows: NDArray) -> NDArray:
        return vectors[rows]

    changed = np.random.default_rng(1).choice(len(vectors), 2 * N_CHANGES, replace=False)
    removed, moved = changed[:N_CHANGES], changed[N_CHANGES:]
    new_vectors = vector_sampler(1)(2 * N_CHANGES)
    vectors = np.vstack([vectors, new_vectors[:N_CHANGES]])
    vectors[moved] = new_vectors[N_CHANGES:]
    added = np.concatenate([moved, np.arange(len(vectors) - N_CHANGES, len(vectors))])
    (file,) = tuned.files
    index: Any = faiss.read_index(str(file))  # into memory, where it can be changed
    started = time.perf_counter()
    n_removed = index.remove_ids(changed)
    remove_s = time.perf_counter() - started
    started = time.perf_counter()
    add_vectors(index, read_vectors, added)
    add_s = time.perf_counter() - started

    trial, packed = tuned.best_trial, pack_vectors(vectors)
    remaining = np.setdiff1d(np.arange(len(vectors)), removed)
    truth = exact_search(read_vectors, remaining, queries)
    updated = ItemIndex([index], packed, trial.search_params)
    new_index = train_index(read_vectors, remaining, find_family(trial.family))
    add_vectors(new_index, read_vectors, remaining)
    rebuilt = ItemIndex([new_index], packed, trial.search_params)
    return {
        "system": f"sextet {trial.family}, {N_CHANGES:,} removed, moved and added each",
        "removed_items_returned": len(np.intersect1d(updated.search(vectors[removed], K), removed)),
        "added_recall_at_1": float((updated.search(vectors[added], 1)[:, 0] == added).mean()),
        "recall": round(measure_search(updated, queries, truth).recall, 4),
        "recall_rebuilt": round(measure_search(rebuilt, queries, truth).recall, 4),
        "removes_per_s": round(int(n_removed) / remove_s),
        "adds_per_s": round(len(added) / add_s),
    }


def measure_build(count: int, shards: int = 1) -> Row:
    """Measure seconds and peak memory of building an index of `count` int8 vectors in `shards` files.

    The row also has the search parameters that reach the recall target, and their latency.
    """
    sample, packed = vector_sampler(), np.zeros((count, DIM + 8), np.uint8)
    for start in range(0, count, BLOCK_SIZE):
        packed[start : start + BLOCK_SIZE] = pack_vectors(sample(min(BLOCK_SIZE, count - start)))
    folder = FOLDER / "built"
    folder.mkdir(parents=True, exist_ok=True)
    read_vectors, ids = int8_vector_reader(packed), np.arange(count)
    started = time.monotonic()
    empty = train_index(read_vectors, ids, FAMILIES["ivf_sq8"])
    files = write_shards(empty, read_vectors, ids, folder, shards)
    seconds = time.monotonic() - started
    peak_rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in files)
    queries = sample(N_QUERIES)
    truth = exact_search(read_vectors, ids, queries, K)
    index = ItemIndex(read_shards(files), packed, SearchParams(1))
    best = tune_search_params(index, queries, truth, TARGETS["recall"]).best
    shutil.rmtree(folder)
    return {
        "vectors": count,
        "shards": shards,
        "build_s": round(seconds, 3),
        "peak_rss_mb": round(peak_rss_mb),
        "int8_vectors_mb": round(packed.nbytes / 2**20),
        "index_mb": round(size / 2**20),
        **best.search_params.to_json(),
        **{name: round(value, 4) for name, value in best.metrics._asdict().items()},
    }


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Build an index in this process; print its time, memory and latency as JSON."""

    vectors: int = argument("number of vectors")
    shards: int = argument("number of files", default=1)


def build(options: BuildOptions) -> int:
    return print_rows([measure_build(options.vectors, options.shards)])


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, build))
