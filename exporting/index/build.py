"""The quantized index: built in blocks, searched at the recall that was asked for, and measured.

    trained → written → settle → measure     the tuner (exporting/index/tuning.py) does this for every family

Everything is inner product, in training of the index as in search. Vectors come from a function of item rows,
so that neither all of them nor all of the index need to be in memory.
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

from models.embeddings import unpack_int8
from serving.storage.vector_index import ItemIndex, SearchParams, read_index

faiss_untyped: Any = faiss  # its Python knows more than its type stubs
VectorReader = Callable[[NDArray], NDArray]  # item rows [n] → float32 [n, D]

RECALL_AT = 300
BLOCK_SIZE = 65_536  # vectors that are float32 at a time
MAX_POINTS_PER_CENTROID = 64  # of a training sample per list
MIN_POINTS_PER_CENTROID = 39  # below, faiss warns that lists are learned from too little
MARGIN_STEPS = 6
MIN_RECALL_GAIN = 0.0005  # recall that twice the probes must gain to be worth trying


class SearchMetrics(NamedTuple):
    """What a search costs and finds, one query at a time on one thread."""

    recall: float  # mean share of the exact RECALL_AT nearest that the index returns
    p50_ms: float
    p99_ms: float


SweepPoints = list[tuple[SearchParams, SearchMetrics]]


def int8_vector_reader(packed: NDArray) -> VectorReader:
    """The vectors of row-wise int8 ones [N+1, D+8] uint8."""
    return lambda rows: unpack_int8(torch.from_numpy(packed[rows])).numpy()


def train_index(
    vectors: VectorReader, ids: NDArray, factory: str, centroids: NDArray | None = None, seed: int = 0
) -> faiss.Index:
    """An empty index for the item rows `ids` [n] int64, its lists and codes learned from a sample of them.

    `factory` is of `faiss.index_factory`: {nlist} stands for 4 √n lists, or as many as LEAST_POINTS points
    each allow, {parts} for parts of four dimensions. `centroids` [nlist, D] of an index over the same items
    spare learning them again. Lists are learned on the GPUs that faiss sees, if it sees any.

    Raises ValueError for no items, rows that are there twice, and vectors that are not finite.
    """
    count = len(ids)
    if not count:
        raise ValueError("there is no item to index: none is available")
    if len(np.unique(ids)) != count:
        raise ValueError("item rows are there more than once")
    nlist = max(1, min(round(4 * math.sqrt(count)), count // MIN_POINTS_PER_CENTROID))
    dim = vectors(ids[:1]).shape[1]
    parts = max(n for n in range(1, max(dim // 4, 1) + 1) if dim % n == 0)
    described = factory.format(nlist=nlist, parts=parts)
    index = faiss.index_factory(dim, described, faiss.METRIC_INNER_PRODUCT)
    lists: Any = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.cp.max_points_per_centroid = MAX_POINTS_PER_CENTROID
        lists.cp.min_points_per_centroid = 1  # said above
        lists.cp.niter = 10
        lists.cp.seed = seed
        if centroids is not None and len(centroids) == lists.nlist:
            lists.quantizer.add(centroids)  # an index whose lists are there learns its codes alone
        elif (fast := copy_to_gpus(faiss.IndexFlatIP(dim))) is not None:
            lists.clustering_index = fast
        _use_uniform_scale(lists)
    most = max(MAX_POINTS_PER_CENTROID * nlist, BLOCK_SIZE)
    some = ids if count <= most else np.sort(np.random.default_rng(seed).choice(ids, most, replace=False))
    index.train(finite_vectors(vectors, some))
    if lists is not None:
        lists.clustering_index = None
    return index


def _use_uniform_scale(lists: faiss.IndexIVF) -> None:
    """One scale for all dimensions of 8-bit codes, from -4 to 4 standard deviations of what is left of a
    vector without its centroid: a fifth faster to scan than a scale for each, and finer than one from the
    smallest to the largest value (.9852 of the exact neighbours against .9848, docs/index.md)."""
    if (
        isinstance(lists, faiss_untyped.IndexIVFScalarQuantizer)
        and lists.sq.qtype == faiss_untyped.ScalarQuantizer.QT_8bit
    ):
        lists.sq.qtype = faiss_untyped.ScalarQuantizer.QT_8bit_uniform
        lists.sq.set_derived_sizes()
        lists.sq.rangestat, lists.sq.rangestat_arg = faiss_untyped.ScalarQuantizer.RS_meanstd, 4.0


def add_vectors(index: faiss.Index, vectors: VectorReader, ids: NDArray) -> None:
    """Add item rows [n] in blocks, their lists found on the GPUs that faiss sees, if it sees any."""
    lists = faiss.try_extract_index_ivf(index)
    with override_quantizer(lists, None if lists is None else copy_to_gpus(lists.quantizer)):
        for start in range(0, len(ids), BLOCK_SIZE):
            block = ids[start : start + BLOCK_SIZE]
            index.add_with_ids(finite_vectors(vectors, block), block)


def copy_to_gpus(flat: faiss.Index) -> faiss.Index | None:
    """A copy on all GPUs; None where there is none, or faiss cannot use it."""
    if not faiss.get_num_gpus():
        return None
    try:
        return faiss_untyped.index_cpu_to_all_gpus(flat)
    except RuntimeError as error:
        print(f"\nwarning: faiss cannot use the GPU, the CPU goes on: {error}", flush=True)
        return None


@contextmanager
def override_quantizer(lists: faiss.IndexIVF | None, quantizer: faiss.Index | None) -> Iterator[None]:
    """Within, `quantizer` chooses the lists of an inverted file in place of its own; None for no change."""
    if lists is None or quantizer is None:
        yield
        return
    own = lists.quantizer
    lists.quantizer = quantizer
    try:
        yield
    finally:
        lists.quantizer = own


def write_shards(
    empty: faiss.Index, vectors: VectorReader, ids: NDArray, folder: Path, shards: int = 1
) -> list[Path]:
    """Files of `shards` indexes in `folder`, which deal the item rows `ids` [n] out between them.

    All start as `empty`, so that together they answer as one would. One is in memory at a time.
    """
    names = ["index.faiss"] if shards == 1 else [f"index-{shard:03d}.faiss" for shard in range(shards)]
    for shard, name in enumerate(names):
        index = faiss.clone_index(empty)
        add_vectors(index, vectors, ids[shard::shards])
        faiss.write_index(index, str(folder / name))
    return [folder / name for name in names]


def read_shards(files: Sequence[Path]) -> list[faiss.Index]:
    """The shards of `written` as serving opens them."""
    return [read_index(str(file)) for file in files]


def imbalance_factor(shards: Sequence[faiss.Index]) -> float | None:
    """How unevenly the lists are filled: vectors that a query meets in a list, over those of even lists;
    1 at best. None for graphs."""
    lists: list[Any] = [faiss.try_extract_index_ivf(index) for index in shards]
    if lists[0] is None:
        return None
    sizes = np.array([[one.get_list_size(number) for number in range(one.nlist)] for one in lists]).sum(0)
    return round(len(sizes) * float((sizes**2).sum()) / max(float(sizes.sum()) ** 2, 1), 3)


def finite_vectors(vectors: VectorReader, rows: NDArray) -> NDArray:
    """Vectors [n, D] float32 of item rows [n]. Raises ValueError for one that is not finite."""
    found = vectors(rows)
    if not np.isfinite(found).all():
        worst = rows[~np.isfinite(found).all(1)][0]
        raise ValueError(
            f"the vector of item row {worst} is not finite: the item tower diverged, train again"
        )
    return found


def exact_search(vectors: VectorReader, ids: NDArray, queries: NDArray, k: int = RECALL_AT) -> NDArray:
    """The rows [q, min(k, n)] of `ids` [n] with the largest inner products, block by block."""
    asked = torch.from_numpy(queries)
    score, row = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(ids), BLOCK_SIZE):
        block = ids[start : start + BLOCK_SIZE]
        score = torch.cat([score, asked @ torch.from_numpy(finite_vectors(vectors, block)).T], dim=1)
        row = torch.cat([row, torch.from_numpy(block).expand(len(queries), -1)], dim=1)
        score, best = score.topk(min(k, score.shape[1]), dim=1)
        row = row.gather(1, best)
    return row.numpy()


def measure_search(index: ItemIndex, queries: NDArray, truth: NDArray) -> SearchMetrics:
    """Recall against `truth` [q, k] and milliseconds, as in serving: one query at a time, one thread."""
    threads = faiss.omp_get_max_threads(), torch.get_num_threads()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    found, taken = [], []
    try:
        for row, wanted in enumerate(truth):
            start = time.perf_counter()
            rows = index.search(queries[row : row + 1], len(wanted))
            taken.append(1e3 * (time.perf_counter() - start))
            found.append(len(np.intersect1d(rows[0], wanted)) / len(wanted))
    finally:
        faiss.omp_set_num_threads(threads[0])
        torch.set_num_threads(threads[1])
    return SearchMetrics(
        float(np.mean(found)), float(np.percentile(taken, 50)), float(np.percentile(taken, 99))
    )


def tune_search_params(
    index: ItemIndex, queries: NDArray, truth: NDArray, target_recall: float, refine: float = 1.0
) -> SweepPoints:
    """Efforts that were tried for recall `target`, the chosen one last.

    The fewest probes that reach it, then the smallest margin at twice as many, whichever is faster: a query
    in a dense place is done with fewer lists, one further out needs more. An index that misses the target
    keeps the probes from where on more of them found nothing new.
    """
    tried: SweepPoints = []

    def reaches(effort: SearchParams) -> bool:
        tried.append((effort, measure_search(index.with_search_params(effort), queries, truth)))
        return tried[-1][1].recall >= target_recall

    def useless() -> bool:
        return len(tried) > 1 and 0 < tried[-1][1].recall < tried[-2][1].recall + MIN_RECALL_GAIN

    graph = index.centroids is None
    least, most = (truth.shape[1], 16 * truth.shape[1]) if graph else (1, index.max_probes())
    probes = exponential_search(
        least, most, lambda probes: reaches(SearchParams(probes, refine_factor=refine)), useless
    )
    fixed = next(pair for pair in reversed(tried) if pair[0].probes == probes)
    best = fixed
    if not graph and fixed[1].recall >= target_recall and probes > 1:
        wide = min(2 * probes, most)
        near, _ = index.probe_lists(queries, wide, math.inf)
        low, high = 0.0, float((near[:, 0] - near[:, -1]).max())
        for _ in range(MARGIN_STEPS):
            middle = (low + high) / 2
            if reaches(SearchParams(wide, middle, refine)):
                high = middle
                best = min(best, tried[-1], key=lambda pair: pair[1].p50_ms)
            else:
                low = middle
    return [*tried, best]


def exponential_search(
    least: int,
    most: int,
    meets_target: Callable[[int], bool],
    has_plateaued: Callable[[], bool] = lambda: False,
) -> int:
    """The smallest number of `least` to `most` that reaches; if none does, `most` or the first useless one.

    Doubles until it does, then halves the bracket down to a sixteenth, which is below the noise of timing.
    """
    low, high = 0, least
    while not meets_target(high):
        if high >= most or has_plateaued():
            return high
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        low, high = (low, middle) if meets_target(middle) else (middle, high)
    return high
