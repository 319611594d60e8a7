"""The quantized index: built in blocks, searched at the recall that was asked for, and measured.

    build → settle → measure        the tuner (exporting/tuning.py) does this for every family and compares

Everything is inner product, in training of the index as in search.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from models.embeddings import unpack_int8
from serving.search import Effort, ItemIndex

RECALL_AT = 300
BLOCK = 65_536  # vectors that are float32 at a time
POINTS = 64  # of a training sample per list
LEAST_POINTS = 39  # below, faiss warns that lists are learned from too little
MARGIN_STEPS = 6
PLATEAU = 0.0005  # recall that twice the probes must gain to be worth trying


@dataclass(frozen=True)
class Measured:
    """What a search costs and finds, one query at a time on one thread."""

    recall: float  # mean share of the exact RECALL_AT nearest that the index returns
    p50_ms: float
    p99_ms: float


Tried = list[tuple[Effort, Measured]]


def build(
    packed: NDArray, ids: NDArray, factory: str, centroids: NDArray | None = None, seed: int = 0
) -> faiss.Index:
    """A trained index over the item rows `ids` [n] int64, which it answers with.

    `packed` [N+1, D+8] uint8 are the row-wise int8 vectors of all items; only BLOCK of them and a training
    sample are float32 at any time. `factory` is of `faiss.index_factory`: {nlist} stands for 4 √n lists, or
    as many as LEAST_POINTS points each allow, {parts} for parts of four dimensions. `centroids` [nlist, D]
    of an index over the same items spare learning them again.

    Raises ValueError for no items, rows that are there twice, and vectors that are not finite.
    """
    count = len(ids)
    if not count:
        raise ValueError("there is no item to index: none is available")
    if len(np.unique(ids)) != count:
        raise ValueError("item rows are there more than once")
    nlist = max(1, min(round(4 * math.sqrt(count)), count // LEAST_POINTS))
    dim = packed.shape[1] - 8
    parts = max(n for n in range(1, max(dim // 4, 1) + 1) if dim % n == 0)
    described = factory.format(nlist=nlist, parts=parts)
    index = faiss.index_factory(dim, described, faiss.METRIC_INNER_PRODUCT)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.cp.max_points_per_centroid = POINTS
        lists.cp.min_points_per_centroid = 1  # said above
        lists.cp.niter = 10
        lists.cp.seed = seed
        if centroids is not None and len(centroids) == lists.nlist:
            lists.quantizer.add(centroids)  # an index whose lists are there learns its codes alone
    most = max(POINTS * nlist, BLOCK)
    some = ids if count <= most else np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
    index.train(vectors_of(packed, some))
    for start in range(0, count, BLOCK):
        block = ids[start : start + BLOCK]
        index.add_with_ids(vectors_of(packed, block), block)
    return index


def centroids_of(index: faiss.Index) -> NDArray | None:
    """[nlist, D] float32; None for an index without lists."""
    lists = faiss.try_extract_index_ivf(index)
    return None if lists is None else lists.quantizer.reconstruct_n(0, lists.nlist)


def vectors_of(packed: NDArray, rows: NDArray) -> NDArray:
    """Unpacked vectors [n, D] float32 of item rows [n]. Raises ValueError for one that is not finite."""
    vectors = unpack_int8(torch.from_numpy(packed[rows])).numpy()
    if not np.isfinite(vectors).all():
        worst = rows[~np.isfinite(vectors).all(1)][0]
        raise ValueError(
            f"the vector of item row {worst} is not finite: the item tower diverged, train again"
        )
    return vectors


def exact(packed: NDArray, ids: NDArray, queries: NDArray, k: int = RECALL_AT) -> NDArray:
    """The rows [q, min(k, n)] of `ids` [n] with the largest inner products, block by block."""
    asked = torch.from_numpy(queries)
    score, row = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(ids), BLOCK):
        block = ids[start : start + BLOCK]
        score = torch.cat([score, asked @ torch.from_numpy(vectors_of(packed, block)).T], dim=1)
        row = torch.cat([row, torch.from_numpy(block).expand(len(queries), -1)], dim=1)
        score, best = score.topk(min(k, score.shape[1]), dim=1)
        row = row.gather(1, best)
    return row.numpy()


def measure(index: ItemIndex, queries: NDArray, truth: NDArray) -> Measured:
    """Recall against `truth` [q, k] and milliseconds, as in serving: one query at a time, one thread."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    found, taken = [], []
    try:
        for row, wanted in enumerate(truth):
            start = time.perf_counter()
            rows = index.search(queries[row : row + 1], len(wanted))
            taken.append(1e3 * (time.perf_counter() - start))
            found.append(len(np.intersect1d(rows[0], wanted)) / len(wanted))
    finally:
        faiss.omp_set_num_threads(threads)
    return Measured(float(np.mean(found)), float(np.percentile(taken, 50)), float(np.percentile(taken, 99)))


def settle(
    index: faiss.Index, packed: NDArray, queries: NDArray, truth: NDArray, target: float, refine: float = 1.0
) -> Tried:
    """Efforts that were tried for recall `target`, the chosen one last.

    The fewest probes that reach it, then the smallest margin at twice as many, whichever is faster: a query
    in a dense place is done with fewer lists, one further out needs more. An index that misses the target
    keeps the probes from where on more of them found nothing new.
    """
    tried: Tried = []

    def reaches(effort: Effort) -> bool:
        tried.append((effort, measure(ItemIndex(index, packed, effort), queries, truth)))
        return tried[-1][1].recall >= target

    def useless() -> bool:
        return len(tried) > 1 and 0 < tried[-1][1].recall < tried[-2][1].recall + PLATEAU

    lists = faiss.try_extract_index_ivf(index)
    least, most = (1, lists.nlist) if lists is not None else (truth.shape[1], 16 * truth.shape[1])
    probes = smallest(least, most, lambda probes: reaches(Effort(probes, refine=refine)), useless)
    fixed = next(pair for pair in reversed(tried) if pair[0].probes == probes)
    best = fixed
    if lists is not None and fixed[1].recall >= target and probes > 1:
        wide = min(2 * probes, lists.nlist)
        low, high = 0.0, spread(lists, queries, wide)
        for _ in range(MARGIN_STEPS):
            middle = (low + high) / 2
            if reaches(Effort(wide, middle, refine)):
                high = middle
                best = min(best, tried[-1], key=lambda pair: pair[1].p50_ms)
            else:
                low = middle
    return [*tried, best]


def spread(lists: faiss.IndexIVF, queries: NDArray, probes: int) -> float:
    """How far behind the nearest centroid the last of `probes` is at most, over all queries."""
    near, _ = lists.quantizer.search(queries, probes)
    return float((near[:, 0] - near[:, -1]).max())


def smallest(
    least: int, most: int, reaches: Callable[[int], bool], useless: Callable[[], bool] = lambda: False
) -> int:
    """The smallest number of `least` to `most` that reaches; if none does, `most` or the first useless one.

    Doubles until it does, then halves the bracket down to a sixteenth, which is below the noise of timing.
    """
    low, high = 0, least
    while not reaches(high):
        if high >= most or useless():
            return high
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def bytes_per_vector(index: faiss.Index) -> float:
    """Of the index as it is written, which copies it."""
    return len(faiss.serialize_index(index)) / max(index.ntotal, 1)
