"""The retrieval index beside hnswlib, usearch and voyager: recall, time, bytes and changes.

    python -m benchmarks.index                 a million vectors: some 25 minutes on 2 cores
    python -m benchmarks.index 100_000         fewer
    python -m benchmarks.index build 10_000_000 4    what a build in four shards takes

Unit vectors of 64 dimensions in clusters of intrinsic dimension 16, with noise; 500 queries, recall@300
against exact search over float32, one query at a time on one thread. Peers are installed from PyPI into an
environment of their own; all systems run one after the other, so keep the machine quiet. At the end the
tuner's choice and hnswlib's fastest setting that reaches its recall target take turns, since a machine is
seldom as fast at the end of half an hour as at its beginning. Writes `reports/bench_index.json` (a row per
system and setting) and `reports/bench_index.html` with the picture.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peer_environments
from training import runtime

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "artifacts" / "bench_index"
REPORT = ROOT / "reports" / "bench_index.json"
BASELINE_PACKAGES = ("hnswlib==0.8.0", "usearch==2.26.6", "voyager==2.2.3")
N_VECTORS, DIM, INTRINSIC_DIM, N_CLUSTERS, CLUSTER_STD, NOISE_STD, N_QUERIES, K = (
    1_000_000,
    64,
    16,
    500,
    0.7,
    0.1,
    500,
    300,
)
TARGETS: dict[str, Any] = {"recall": 0.985, "p99_ms": None, "bytes_per_vector": 80}
N_CHANGES = 10_000
ROUNDS = 5  # in turn with hnswlib


def main(count: int) -> None:
    from reporting import tables  # after console.set_up: they load torch
    from reporting.index_page import index_page, pareto_front

    FOLDER.mkdir(parents=True, exist_ok=True)
    python = peer_environments.create_environment(
        FOLDER / "peers", ["numpy", *BASELINE_PACKAGES], "hnswlib, usearch, voyager"
    )
    vectors, queries = random_dataset(count)
    np.save(FOLDER / "vectors.npy", vectors)
    np.save(FOLDER / "queries.npy", queries)
    truth = exact_neighbours(vectors, queries)
    np.save(FOLDER / "truth.npy", truth)
    tuned = tune_index(vectors, queries, truth, FOLDER / "sextet")
    rows, changes = sweep_rows(tuned), measure_updates(tuned, vectors, queries)
    turns: list[dict[str, Any]] = []
    if python:
        for system in ("hnswlib", "usearch", "voyager"):
            rows += measure_baseline(python, system)
            print(tables.text_table([row for row in rows if row["system"] == system]), flush=True)
        turns = compare_with_hnswlib(tuned, vectors, queries, truth, python, rows)
    report = rows + turns + [changes]
    tables.write_json(report, REPORT)
    about = f"{count:,} vectors, recall@{K} of exact search, {N_QUERIES} queries one by one on one thread."
    REPORT.with_suffix(".html").write_text(index_page(rows, "The retrieval index and its peers", about))
    for part in (pareto_front(rows), turns, [changes]):
        print(tables.text_table(part), flush=True)
    print(f"written: {REPORT}")


def random_dataset(count: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Vectors [count, DIM] and queries [QUERIES, DIM], float32 of unit length."""
    draw = vector_sampler(seed)
    return draw(count), draw(N_QUERIES)


def vector_sampler(seed: int = 0) -> Callable[[int], NDArray]:
    """Draws n vectors [n, DIM] a call."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(DIM, INTRINSIC_DIM)))[0].T.astype(np.float32)  # [INNER, DIM]
    centres = rng.normal(size=(N_CLUSTERS, INTRINSIC_DIM)).astype(np.float32)

    def draw(n: int) -> NDArray:
        inner = centres[rng.integers(0, N_CLUSTERS, n)] + CLUSTER_STD * rng.normal(
            size=(n, INTRINSIC_DIM)
        ).astype(np.float32)
        vectors = inner @ basis + NOISE_STD * rng.normal(size=(n, DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return draw


def exact_neighbours(vectors: NDArray, queries: NDArray) -> NDArray:
    """[QUERIES, K] positions of the largest inner products over float32."""
    from exporting.index.build import exact_search

    return exact_search(lambda rows: vectors[rows], np.arange(len(vectors)), queries, K)


def pack_vectors(vectors: NDArray) -> NDArray:
    """Row-wise int8 vectors [n, DIM+8] uint8."""
    import torch

    from models.embeddings import pack_int8

    return pack_int8(torch.from_numpy(vectors)).numpy()


def tune_index(vectors: NDArray, queries: NDArray, truth: NDArray, folder: Path) -> Any:
    """What `index=auto` does with the vectors and TARGETS; files are left in `folder`."""
    from hydra import compose, initialize_config_dir

    from exporting.index.tuning import tune_index
    from training.config import CONFIG_DIR

    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("export", overrides=["index=auto"]).index
    cfg.update(TARGETS)
    shutil.rmtree(folder, ignore_errors=True)
    rows = np.arange(len(vectors))
    return tune_index(lambda some: vectors[some], pack_vectors(vectors), rows, queries, truth, cfg, folder)


def sweep_rows(tuned: Any) -> list[dict[str, Any]]:
    """Rows of every family's tries, the tuner's choice marked."""
    from exporting.index.tuning import trial_rows

    return [{**row, "system": f"sextet {row['system']}"} for row in trial_rows(tuned)]


def measure_baseline(python: Path, system: str, *ef_search: str) -> list[dict[str, Any]]:
    """Rows of a peer: built and measured, or the built one measured `again` at one effort."""
    command = [str(python), str(ROOT / "benchmarks" / "index_peers.py"), system, str(FOLDER), *ef_search]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]


def compare_with_hnswlib(
    tuned: Any, vectors: NDArray, queries: NDArray, truth: NDArray, python: Path, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The tuner's choice and hnswlib at its fastest that reaches the same target, ROUNDS times in turn:
    medians of what the rounds measured, and the ratio of the two."""
    from exporting.index.build import measure_search, read_shards
    from serving.storage.vector_index import ItemIndex

    enough = [row for row in rows if row["system"] == "hnswlib" and row["recall"] >= TARGETS["recall"]]
    if not enough:
        return []
    theirs = min(enough, key=lambda row: row["p50_ms"])
    index = ItemIndex(read_shards(tuned.files), pack_vectors(vectors), tuned.choice.effort)
    ours, other = [], []
    for _ in range(ROUNDS):
        ours.append(measure_search(index, queries, truth))
        (row,) = measure_baseline(python, "hnswlib", theirs["params"].split("ef ")[1].split(",")[0])
        other.append(row)
    mine = {
        "system": f"sextet {tuned.choice.family}",
        "recall": round(ours[0].recall, 4),
        "p50_ms": round(float(np.median([one.p50_ms for one in ours])), 4),
        "p99_ms": round(float(np.median([one.p99_ms for one in ours])), 4),
        "bytes_per_vector": round(tuned.choice.bytes_per_vector, 1),
    }
    hnswlib = {name: other[0][name] for name in mine} | {
        name: round(float(np.median([one[name] for one in other])), 4) for name in ("p50_ms", "p99_ms")
    }
    ratio = round(mine["p50_ms"] / hnswlib["p50_ms"], 3)
    said = f"{ROUNDS} rounds in turn"
    return [{**mine, "params": said, "p50_ratio": ratio}, {**hnswlib, "params": said, "p50_ratio": 1.0}]


def measure_updates(tuned: Any, vectors: NDArray, queries: NDArray) -> dict[str, Any]:
    """CHANGES items removed, as many moved and as many new: what a second takes, and whether it took effect.

    `recall` is against exact search over the items as they then are, `recall_rebuilt` that of an index that
    is built over them anew and searched as hard.
    """
    import faiss

    from exporting.index.build import add_vectors, exact_search, measure_search, train_index
    from exporting.index.tuning import FACTORIES
    from serving.storage.vector_index import ItemIndex

    def source(rows: NDArray) -> NDArray:
        return vectors[rows]

    some = np.random.default_rng(1).choice(len(vectors), 2 * N_CHANGES, replace=False)
    gone, moved = some[:N_CHANGES], some[N_CHANGES:]
    fresh = vector_sampler(1)(2 * N_CHANGES)
    vectors = np.vstack([vectors, fresh[:N_CHANGES]])
    vectors[moved] = fresh[N_CHANGES:]
    added = np.concatenate([moved, np.arange(len(vectors) - N_CHANGES, len(vectors))])
    (file,) = tuned.files
    index: Any = faiss.read_index(str(file))  # into memory, where it can be changed
    started = time.perf_counter()
    removed = index.remove_ids(some)
    remove_s = time.perf_counter() - started
    started = time.perf_counter()
    add_vectors(index, source, added)
    add_s = time.perf_counter() - started

    effort, packed = tuned.choice.effort, pack_vectors(vectors)
    left = np.setdiff1d(np.arange(len(vectors)), gone)
    truth = exact_search(source, left, queries)
    updated = ItemIndex([index], packed, effort)
    anew = train_index(source, left, FACTORIES[tuned.choice.family])
    add_vectors(anew, source, left)
    return {
        "system": f"sextet {tuned.choice.family}, {N_CHANGES:,} removed, moved and added each",
        "removed_but_returned": len(np.intersect1d(updated.search(vectors[gone], K), gone)),
        "added_and_found_first": float((updated.search(vectors[added], 1)[:, 0] == added).mean()),
        "recall": round(measure_search(updated, queries, truth).recall, 4),
        "recall_rebuilt": round(measure_search(ItemIndex([anew], packed, effort), queries, truth).recall, 4),
        "removes_per_s": round(int(removed) / remove_s),
        "adds_per_s": round(len(added) / add_s),
    }


def measure_build(count: int, shards: int = 1) -> dict[str, Any]:
    """Seconds and peak memory of an index of `count` vectors in `shards` files, from int8 ones; then what it
    takes to find TARGETS' recall of their exact neighbours."""
    from exporting.index.build import (
        BLOCK_SIZE,
        exact_search,
        int8_vector_reader,
        read_shards,
        train_index,
        tune_search_params,
        write_shards,
    )
    from exporting.index.tuning import FACTORIES
    from serving.storage.vector_index import ItemIndex, SearchParams

    draw, packed = vector_sampler(), np.zeros((count, DIM + 8), np.uint8)
    for start in range(0, count, BLOCK_SIZE):
        packed[start : start + BLOCK_SIZE] = pack_vectors(draw(min(BLOCK_SIZE, count - start)))
    folder = FOLDER / "built"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    rows = np.arange(count)
    files = write_shards(
        train_index(int8_vector_reader(packed), rows, FACTORIES["ivf_sq8"]),
        int8_vector_reader(packed),
        rows,
        folder,
        shards,
    )
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in files)
    queries = draw(N_QUERIES)
    truth = exact_search(int8_vector_reader(packed), rows, queries, K)
    tried = tune_search_params(
        ItemIndex(read_shards(files), packed, SearchParams(1)), queries, truth, TARGETS["recall"]
    )
    shutil.rmtree(folder)
    return {
        "vectors": count,
        "shards": shards,
        "build_s": round(seconds, 3),
        "peak_rss_mb": round(peak),
        "int8_vectors_mb": round(packed.nbytes / 2**20),
        "index_mb": round(size / 2**20),
        **tried[-1][0].to_json(),
        **{name: round(value, 4) for name, value in tried[-1][1]._asdict().items()},
    }


if __name__ == "__main__":
    runtime.set_up_process()
    if sys.argv[1:2] == ["build"]:
        print(json.dumps(measure_build(*map(int, sys.argv[2:]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else N_VECTORS)
