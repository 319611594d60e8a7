"""The retrieval index beside hnswlib, usearch and voyager: recall, time, bytes and changes.

    python -m benchmarks.index                 a million vectors: some 25 minutes on 2 cores
    python -m benchmarks.index 100_000         fewer
    python -m benchmarks.index build 10_000_000     only what a build takes, of time and memory

Unit vectors of 64 dimensions in clusters of intrinsic dimension 16, with noise; 500 queries, recall@300
against exact search over float32, one query at a time on one thread. Peers are installed from PyPI into an
environment of their own; all systems run one after the other, so keep the machine quiet. Writes
`reports/bench_index.json` (a row per system and setting) and `reports/bench_index.html` with the picture.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers
from training import console

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "artifacts" / "bench_index"
REPORT = ROOT / "reports" / "bench_index.json"
PEERS = ("hnswlib==0.8.0", "usearch==2.26.6", "voyager==2.2.3")
COUNT, DIM, INNER, CLUSTERS, SPREAD, NOISE, QUERIES, K = 1_000_000, 64, 16, 500, 0.7, 0.1, 500, 300
TARGETS = {"recall": 0.986, "p99_ms": None, "bytes_per_vector": 80}
CHANGES = 10_000


def main(count: int) -> None:
    from evaluation.report import tables  # after console.set_up: they load torch
    from evaluation.report.index_page import front, index_page

    FOLDER.mkdir(parents=True, exist_ok=True)
    python = peers.environment(FOLDER / "peers", ["numpy", *PEERS], "hnswlib, usearch, voyager")
    vectors, queries = made(count)
    np.save(FOLDER / "vectors.npy", vectors)
    np.save(FOLDER / "queries.npy", queries)
    truth = exact(vectors, queries)
    np.save(FOLDER / "truth.npy", truth)
    packed, _ = indexed(vectors)
    rows, changes = sextet(packed, queries, truth)
    for system in ("hnswlib", "usearch", "voyager") if python else ():
        script = str(ROOT / "benchmarks" / "index_peers.py")
        command = [str(python), script, system, str(FOLDER)]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows += [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
        print(tables.text_table([row for row in rows if row["system"] == system]), flush=True)
    report = rows + [changes]
    tables.write_json(report, REPORT)
    about = f"{count:,} vectors, recall@{K} of exact search, {QUERIES} queries one by one on one thread."
    REPORT.with_suffix(".html").write_text(index_page(rows, "The retrieval index and its peers", about))
    print(tables.text_table(front(rows)))
    print(tables.text_table([changes]))
    print(f"written: {REPORT}")


def made(count: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Vectors [count, DIM] and queries [QUERIES, DIM], float32 of unit length."""
    draw = drawing(seed)
    return draw(count), draw(QUERIES)


def drawing(seed: int = 0) -> Callable[[int], NDArray]:
    """Draws n vectors [n, DIM] a call."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(DIM, INNER)))[0].T.astype(np.float32)  # [INNER, DIM]
    centres = rng.normal(size=(CLUSTERS, INNER)).astype(np.float32)

    def draw(n: int) -> NDArray:
        inner = centres[rng.integers(0, CLUSTERS, n)] + SPREAD * rng.normal(size=(n, INNER)).astype(
            np.float32
        )
        vectors = inner @ basis + NOISE * rng.normal(size=(n, DIM)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return draw


def exact(vectors: NDArray, queries: NDArray) -> NDArray:
    """[QUERIES, K] positions of the largest inner products over float32."""
    import faiss

    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    return flat.search(queries, K)[1]


def indexed(vectors: NDArray) -> tuple[NDArray, NDArray]:
    """Row-wise int8 vectors [n+1, DIM+8] with a row 0 for the unknown item, and item rows [n]."""
    import torch

    from models.embeddings import pack_int8

    packed = pack_int8(torch.from_numpy(np.vstack([np.zeros((1, vectors.shape[1]), np.float32), vectors])))
    return packed.numpy(), np.arange(1, len(vectors) + 1)


def sextet(packed: NDArray, queries: NDArray, truth: NDArray) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of every family's tries, the tuner's choice marked, and what changes cost."""
    from hydra import compose, initialize_config_dir

    from exporting.tuning import rows, tune
    from training.config import CONFIGS

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("export", overrides=["index=auto"]).index
    cfg.update(TARGETS)
    ids = np.arange(1, len(packed))
    tuned = tune(packed, ids, queries, truth + 1, cfg)
    tried = [{**row, "system": f"sextet {row['system']}"} for row in rows(tuned)]
    return tried, changed(tuned, packed, queries)


def changed(tuned: Any, packed: NDArray, queries: NDArray) -> dict[str, Any]:
    """CHANGES items removed, as many moved and as many new: what a second takes, and whether it took effect.

    `recall` is against exact search over the items as they then are, `recall_rebuilt` that of an index that
    is built over them anew and searched as hard.
    """
    from exporting.index import build, exact, measure, vectors_of
    from exporting.tuning import FACTORIES
    from serving.search import ItemIndex

    some = np.random.default_rng(1).choice(len(packed) - 1, 2 * CHANGES, replace=False) + 1
    gone, moved = some[:CHANGES], some[CHANGES:]
    fresh = indexed(drawing(1)(2 * CHANGES))[0][1:]
    packed = np.vstack([packed, fresh[:CHANGES]])
    packed[moved] = fresh[CHANGES:]
    added = np.concatenate([moved, np.arange(len(packed) - CHANGES, len(packed))])
    started = time.perf_counter()
    removed = tuned.found.remove_ids(some)
    remove_s = time.perf_counter() - started
    started = time.perf_counter()
    tuned.found.add_with_ids(vectors_of(packed, added), added)
    add_s = time.perf_counter() - started

    effort, left = tuned.choice.effort, np.setdiff1d(np.arange(1, len(packed)), gone)
    truth = exact(packed, left, queries)
    index = ItemIndex(tuned.found, packed, effort)
    rebuilt = ItemIndex(build(packed, left, FACTORIES[tuned.choice.family]), packed, effort)
    return {
        "system": f"sextet {tuned.choice.family}, {CHANGES:,} removed, moved and added each",
        "removed_but_returned": len(np.intersect1d(index.search(vectors_of(packed, gone), K), gone)),
        "added_and_found_first": float((index.search(vectors_of(packed, added), 1)[:, 0] == added).mean()),
        "recall": round(measure(index, queries, truth).recall, 4),
        "recall_rebuilt": round(measure(rebuilt, queries, truth).recall, 4),
        "removes_per_s": round(int(removed) / remove_s),
        "adds_per_s": round(len(added) / add_s),
    }


def built(count: int) -> dict[str, Any]:
    """Seconds and peak memory of an index of `count` vectors, from int8 ones."""
    from exporting.index import BLOCK, build
    from exporting.tuning import FACTORIES

    draw, packed = drawing(), np.zeros((count + 1, DIM + 8), np.uint8)
    for start in range(1, count + 1, BLOCK):
        stop = min(start + BLOCK, count + 1)
        packed[start:stop] = indexed(draw(stop - start))[0][1:]
    started = time.monotonic()
    index = build(packed, np.arange(1, count + 1), FACTORIES["ivf_sq8"])
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"vectors": index.ntotal, "build_s": round(seconds, 1), "peak_rss_mb": round(peak)}


if __name__ == "__main__":
    console.set_up()
    if sys.argv[1:2] == ["build"]:
        print(json.dumps(built(int(sys.argv[2]))))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
