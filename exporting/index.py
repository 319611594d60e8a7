"""The quantized index: built, searched at the recall that was asked for, and measured.

    build → tune → measure        a tuner over families repeats this for each config and compares

Everything is inner product, in training of the index as in search.
"""

import math
import time
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

RECALL_AT = 300


@dataclass(frozen=True)
class Measured:
    """What a search costs and finds, one query at a time on one thread."""

    recall: float  # mean share of the exact RECALL_AT nearest that the index returns
    p50_ms: float
    p99_ms: float


def build(vectors: NDArray, ids: NDArray, cfg: DictConfig) -> faiss.Index:
    """A trained index over `vectors` [n, D] float32, which answers with `ids` [n] int64."""
    count, dim = vectors.shape
    if count < cfg.small:
        factory = cfg.small_factory
    else:
        nlist = max(1, min(round(4 * math.sqrt(count)), count // 39))
        factory = cfg.factory.format(nlist=nlist)
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add_with_ids(vectors, ids)
    return index


def exact(vectors: NDArray, ids: NDArray, queries: NDArray, k: int = RECALL_AT) -> NDArray:
    """The ids [q, min(k, n)] of the largest inner products, by exact search over float32 vectors."""
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    return ids[flat.search(queries, min(k, len(ids)))[1]]


def measure(index: faiss.Index, queries: NDArray, truth: NDArray) -> Measured:
    """Recall against `truth` [q, k] and milliseconds, as in serving: one query at a time, one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    found, taken = [], []
    try:
        for row, wanted in enumerate(truth):
            start = time.perf_counter()
            _, ids = index.search(queries[row : row + 1], len(wanted))
            taken.append(1e3 * (time.perf_counter() - start))
            found.append(len(np.intersect1d(ids[0], wanted)) / len(wanted))
    finally:
        faiss.omp_set_num_threads(threads)
    return Measured(float(np.mean(found)), float(np.percentile(taken, 50)), float(np.percentile(taken, 99)))


def tune(index: faiss.Index, queries: NDArray, truth: NDArray, target: float) -> Measured:
    """Set the smallest nprobe that reaches `target` and return what it measures.

    Doubles until the target is met, then halves the bracket. An index without lists has nothing to set;
    one that misses the target at all of its lists keeps them all.
    """
    lists = inverted_lists(index)
    if lists is None:
        return measure(index, queries, truth)
    tried: dict[int, Measured] = {}

    def reaches(nprobe: int) -> bool:
        lists.nprobe = nprobe
        tried[nprobe] = measure(index, queries, truth)
        return tried[nprobe].recall >= target

    low, high = 0, 1
    while not reaches(high) and high < lists.nlist:
        low, high = high, min(2 * high, lists.nlist)
    while high - low > max(1, high // 16):  # a sixteenth of the cost is below the noise of the timing
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    lists.nprobe = high
    return tried[high]


def inverted_lists(index: faiss.Index) -> faiss.IndexIVF | None:
    """The IVF part of an index, which has `nlist` and `nprobe`; None if it has none."""
    return faiss.try_extract_index_ivf(index)


def settings(index: faiss.Index, cfg: DictConfig) -> dict[str, object]:
    """What the manifest says of the index."""
    lists = inverted_lists(index)
    chosen = {"nlist": lists.nlist, "nprobe": lists.nprobe} if lists is not None else {}
    return {
        "name": cfg.name,
        "type": type(faiss.downcast_index(index)).__name__,
        "vectors": index.ntotal,
        **chosen,
    }
