"""Builds the quantized index in blocks, tunes it to a target recall, and measures it.

    train_index → write_shards → tune_search_params       of every family: exporting/index/tuning.py

The metric is the inner product, both to train the index and to search. A function of item rows reads the
vectors, so neither all vectors nor the whole index need to fit into memory.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from exporting.index.families import IndexFamily, list_count, make_index
from models.embeddings import unpack_int8
from serving.storage.vector_index import ItemIndex, SearchParams, read_index

faiss_untyped: Any = faiss  # its type stubs are incomplete
VectorReader = Callable[[NDArray], NDArray]  # item rows [n] → float32 [n, D]

RECALL_AT = 300
BLOCK_SIZE = 65_536  # vectors that are float32 at a time
MAX_POINTS_PER_CENTROID = 64  # of a training sample per list
MARGIN_STEPS = 6  # halvings of the centroid margin
MIN_RECALL_GAIN = 0.0005  # recall that twice the probes must gain, or the sweep ends


class SearchMetrics(NamedTuple):
    """The recall and latency of a search that runs one query at a time on one thread."""

    recall: float  # mean share of the exact RECALL_AT nearest that the index returns
    p50_ms: float
    p99_ms: float


class SweepPoint(NamedTuple):
    """One setting of a search with its metrics."""

    search_params: SearchParams
    metrics: SearchMetrics


class SearchSweep(NamedTuple):
    """The settings that were measured, in order, and the best of them."""

    best: SweepPoint
    points: list[SweepPoint]


def int8_vector_reader(packed: NDArray) -> VectorReader:
    """Returns a function that reads vectors from row-wise int8 vectors [N+1, D+8] uint8."""
    return lambda rows: unpack_int8(torch.from_numpy(packed[rows])).numpy()


def train_index(
    vectors: VectorReader, ids: NDArray, family: IndexFamily, centroids: NDArray | None = None, seed: int = 0
) -> faiss.Index:
    """An empty index for item rows `ids` [n] int64, with lists and codes learned from a sample of the items.

    If `centroids` [nlist, D] of an index over the same items are given, the new index reuses them. Lists are
    learned on the GPUs that faiss sees, if any.

    Raises ValueError for no items, repeated rows and vectors that are not finite. Raises FamilyError for a
    family whose index serving cannot search.
    """
    count = len(ids)
    if not count:
        raise ValueError(
            "no item is available, so there is nothing to index: check `available` in the items table"
        )
    if len(np.unique(ids)) != count:
        raise ValueError("the same item row occurs more than once")
    index = make_index(family, vectors(ids[:1]).shape[1], count)
    ivf: Any = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.cp.max_points_per_centroid = MAX_POINTS_PER_CENTROID
        ivf.cp.min_points_per_centroid = 1  # `list_count` holds to the minimum already
        ivf.cp.niter = 10
        ivf.cp.seed = seed
        if centroids is not None and len(centroids) == ivf.nlist:
            ivf.quantizer.add(centroids)  # an index that has its centroids learns its codes alone
        elif (gpu_index := copy_to_gpus(faiss.IndexFlatIP(index.d))) is not None:
            ivf.clustering_index = gpu_index
        _use_uniform_scale(ivf)
    limit = max(MAX_POINTS_PER_CENTROID * list_count(count), BLOCK_SIZE)
    sample = ids if count <= limit else np.sort(np.random.default_rng(seed).choice(ids, limit, replace=False))
    index.train(finite_vectors(vectors, sample))
    if ivf is not None:
        ivf.clustering_index = None
    return index


def _use_uniform_scale(ivf: faiss.IndexIVF) -> None:
    """Give all dimensions of 8-bit codes one scale, ±4 standard deviations of the residuals to the centroids.

    Codes with one scale are scanned a fifth faster than codes with a scale per dimension. They are more
    precise than codes whose scale spans the smallest to the largest value (docs/results/index_search.md).
    """
    if (
        isinstance(ivf, faiss_untyped.IndexIVFScalarQuantizer)
        and ivf.sq.qtype == faiss_untyped.ScalarQuantizer.QT_8bit
    ):
        ivf.sq.qtype = faiss_untyped.ScalarQuantizer.QT_8bit_uniform
        ivf.sq.set_derived_sizes()
        ivf.sq.rangestat, ivf.sq.rangestat_arg = faiss_untyped.ScalarQuantizer.RS_meanstd, 4.0


def add_vectors(index: faiss.Index, vectors: VectorReader, ids: NDArray) -> None:
    """Add item rows [n] in blocks; lists are assigned on the GPUs that faiss sees, if any."""
    ivf = faiss.try_extract_index_ivf(index)
    with override_quantizer(ivf, None if ivf is None else copy_to_gpus(ivf.quantizer)):
        for start in range(0, len(ids), BLOCK_SIZE):
            block = ids[start : start + BLOCK_SIZE]
            index.add_with_ids(finite_vectors(vectors, block), block)


def copy_to_gpus(flat: faiss.Index) -> faiss.Index | None:
    """A copy of the index on all GPUs; None without a GPU that faiss can use."""
    if not faiss.get_num_gpus():
        return None
    try:
        return faiss_untyped.index_cpu_to_all_gpus(flat)
    except RuntimeError as error:
        print(f"\nwarning: faiss cannot use the GPU and continues on the CPU: {error}", flush=True)
        return None


@contextmanager
def override_quantizer(ivf: faiss.IndexIVF | None, quantizer: faiss.Index | None) -> Iterator[None]:
    """Use `quantizer` to assign lists of an inverted file inside the block; None changes nothing."""
    if ivf is None or quantizer is None:
        yield
        return
    original = ivf.quantizer
    ivf.quantizer = quantizer
    try:
        yield
    finally:
        ivf.quantizer = original


def write_shards(
    empty: faiss.Index, vectors: VectorReader, ids: NDArray, folder: Path, shards: int = 1
) -> list[Path]:
    """Write `shards` indexes to `folder`, each with its part of the item rows `ids` [n]; returns their files.

    All shards start as copies of `empty`, so together they answer like one index. Only one shard is in memory
    at a time.
    """
    names = ["index.faiss"] if shards == 1 else [f"index-{shard:03d}.faiss" for shard in range(shards)]
    for shard, name in enumerate(names):
        index = faiss.clone_index(empty)
        add_vectors(index, vectors, ids[shard::shards])
        faiss.write_index(index, str(folder / name))
    return [folder / name for name in names]


def read_shards(files: Sequence[Path]) -> list[faiss.Index]:
    """The shards that `write_shards` wrote, opened as serving opens them."""
    return [read_index(str(file)) for file in files]


def imbalance_factor(shards: Sequence[faiss.Index]) -> float | None:
    """Returns the mean size of a vector's list, divided by the size of equal lists; None for graphs.

    The best value is 1.
    """
    ivf_indexes: list[Any] = [faiss.try_extract_index_ivf(index) for index in shards]
    if ivf_indexes[0] is None:
        return None
    sizes = np.array([[ivf.get_list_size(number) for number in range(ivf.nlist)] for ivf in ivf_indexes]).sum(
        0
    )
    return round(len(sizes) * float((sizes**2).sum()) / max(float(sizes.sum()) ** 2, 1), 3)


def bytes_per_vector(files: Sequence[Path], count: int, packed: NDArray, refine_factor: float) -> float:
    """Returns the bytes per vector of an index, including the int8 vectors that reranking reads."""
    index_bytes = sum(file.stat().st_size for file in files) / count
    return index_bytes + (packed.shape[1] if refine_factor > 1 else 0)


def finite_vectors(vectors: VectorReader, rows: NDArray) -> NDArray:
    """Returns the vectors [n, D] float32 of item rows [n]. Raises ValueError if a vector is not finite."""
    block = vectors(rows)
    if not np.isfinite(block).all():
        row = rows[~np.isfinite(block).all(1)][0]
        raise ValueError(f"the vector of item row {row} is not finite: the item tower diverged, train again")
    return block


def exact_search(vectors: VectorReader, ids: NDArray, queries: NDArray, k: int = RECALL_AT) -> NDArray:
    """Searches `ids` [n], block by block, for the rows with the largest inner products: [q, min(k, n)]."""
    query = torch.from_numpy(queries)
    score, row = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(ids), BLOCK_SIZE):
        block = ids[start : start + BLOCK_SIZE]
        score = torch.cat([score, query @ torch.from_numpy(finite_vectors(vectors, block)).T], dim=1)
        row = torch.cat([row, torch.from_numpy(block).expand(len(queries), -1)], dim=1)
        score, best = score.topk(min(k, score.shape[1]), dim=1)
        row = row.gather(1, best)
    return row.numpy()


@contextmanager
def restore_thread_counts() -> Iterator[None]:
    """Set the thread counts of torch and faiss back when the block ends."""
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        faiss.omp_set_num_threads(faiss_threads)


def measure_search(index: ItemIndex, queries: NDArray, truth: NDArray) -> SearchMetrics:
    """Measures recall against `truth` [q, k], and latency.

    As in serving, one thread runs one query at a time.
    """
    recalls, latencies_ms = [], []
    with restore_thread_counts():
        faiss.omp_set_num_threads(1)
        torch.set_num_threads(1)
        for row, nearest in enumerate(truth):
            started = time.perf_counter()
            rows = index.search(queries[row : row + 1], len(nearest))
            latencies_ms.append(1e3 * (time.perf_counter() - started))
            recalls.append(len(np.intersect1d(rows[0], nearest)) / len(nearest))
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    return SearchMetrics(float(np.mean(recalls)), float(p50), float(p99))


def tune_search_params(
    index: ItemIndex, queries: NDArray, truth: NDArray, target_recall: float, refine: float = 1.0
) -> SearchSweep:
    """The fastest search parameters of `index` that reach `target_recall` of `truth` [q, k].

    The search finds the fewest probes that reach the target. Then it tries twice as many probes with the
    smallest centroid margin, and keeps that setting if it is faster: a query in a dense region needs fewer
    lists than a query at the edge. If no number of probes reaches the target, the number after which recall
    stops improving is used.
    """
    points: list[SweepPoint] = []

    def reaches_target(params: SearchParams) -> bool:
        points.append(SweepPoint(params, measure_search(index.with_search_params(params), queries, truth)))
        return points[-1].metrics.recall >= target_recall

    def has_plateaued() -> bool:
        if len(points) < 2:
            return False
        return 0 < points[-1].metrics.recall < points[-2].metrics.recall + MIN_RECALL_GAIN

    is_graph = index.centroids is None
    low_probes, high_probes = (truth.shape[1], 16 * truth.shape[1]) if is_graph else (1, index.max_probes())
    probes = exponential_search(
        low_probes,
        high_probes,
        lambda probes: reaches_target(SearchParams(probes, refine_factor=refine)),
        has_plateaued,
    )
    best = next(point for point in reversed(points) if point.search_params.probes == probes)
    if not is_graph and best.metrics.recall >= target_recall and probes > 1:
        wide_probes = min(2 * probes, high_probes)
        similarity, _ = index.probe_lists(queries, wide_probes, math.inf)
        low, high = 0.0, float((similarity[:, 0] - similarity[:, -1]).max())
        for _ in range(MARGIN_STEPS):
            middle = (low + high) / 2
            if reaches_target(SearchParams(wide_probes, middle, refine)):
                high = middle
                best = min(best, points[-1], key=lambda point: point.metrics.p50_ms)
            else:
                low = middle
    return SearchSweep(best, points)


def exponential_search(
    low: int,
    high: int,
    meets_target: Callable[[int], bool],
    has_plateaued: Callable[[], bool] = lambda: False,
) -> int:
    """The smallest number of `low` to `high` that meets the target.

    If no number does, returns `high` or the first number after which recall stops improving. The number
    doubles until the target is met; then the bracket is halved down to a sixteenth of the number.
    """
    failing, number = 0, low
    while not meets_target(number):
        if number >= high or has_plateaued():
            return number
        failing, number = number, min(2 * number, high)
    while number - failing > max(1, number // 16):
        middle = (failing + number) // 2
        failing, number = (failing, middle) if meets_target(middle) else (middle, number)
    return number
