"""Finds the eligible items that are nearest to a query vector.

    query ─ coarse centroids ─▶ lists ─ codes ─▶ k · refine_factor ─ int8 vectors ─▶ k best
                 │                 │ ╰─ id selector: ineligible ids are never scored
                 │                 ╰─ of every shard, then the best of all
                 ╰─ lists far behind the nearest one are skipped

Shards hold different items under the same centroids, so a query chooses its lists once for all shards. If a
filter leaves too few items in the probed lists, the search widens. If a filter leaves few items in total, the
search is exact.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

untyped_faiss: Any = faiss  # its Python takes arrays and keywords that its type stubs do not know
MAX_EXACT_ITEMS = 2_000  # up to so many items, exact search is faster than the index
PROBE_GROWTH = 4  # factor by which the probed lists grow each time that too few items were found

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SearchParams:
    """Search parameters of an index.

    Args:
        probes: number of lists to search in an inverted file (nprobe), or of nodes that a graph keeps in view
            (efSearch).
        centroid_margin: the search compares the inner products of the query with the centroids. It skips a
            list whose product is more than this below that of the nearest centroid. So a query in a dense
            region costs less. Infinity skips no list.
        refine_factor: the index returns k · refine_factor items, which are sorted anew by their int8 vectors;
            1 keeps the order of the index.
    """

    probes: int
    centroid_margin: float = float("inf")
    refine_factor: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """The parameters as JSON values for a manifest; JSON has no infinity."""
        margin = None if self.centroid_margin == float("inf") else self.centroid_margin
        return {"probes": self.probes, "margin": margin, "refine": self.refine_factor}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SearchParams":
        """The inverse of `to_json`."""
        margin = content["margin"]
        margin = float("inf") if margin is None else float(margin)
        return cls(int(content["probes"]), margin, float(content["refine"]))


class ProbedLists(NamedTuple):
    """The lists to search for B queries, at most P per query, best first; -1 and -inf fill the rest."""

    scores: Vectors  # [B, P], inner products of query and centroid
    lists: Rows  # [B, P]


def read_index(file: str) -> faiss.Index:
    """Open an index file. Its inverted lists are memory-mapped: processes share them, and loading is quick.

    Lists of fast-scan codes, and graphs, are read into memory as a whole.

    Raises RuntimeError for a file that is not an index.
    """
    index = faiss.read_index(file, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    ivf = faiss.try_extract_index_ivf(index)
    mapped: Any = None if ivf is None else untyped_faiss.downcast_InvertedLists(ivf.invlists)
    if isinstance(mapped, untyped_faiss.OnDiskInvertedLists):
        # faiss would start 32 threads for every query, to prefetch what is in memory already.
        mapped.prefetch_nthread = 0
    return index


class ItemIndex:
    """An index over item rows, and the vectors of the items. Safe to share between threads.

    Args:
        shards: indexes of different item rows; all use the inner product and the same centroids.
        packed_vectors: [N+1, D+8], the row-wise int8 item vectors.
        search_params: the search parameters of the shards.

    Raises ValueError if metric, dimensions or centroids do not fit.
    """

    def __init__(
        self, shards: Sequence[faiss.Index], packed_vectors: NDArray[np.uint8], search_params: SearchParams
    ) -> None:
        self.dim = packed_vectors.shape[1] - 8
        for index in shards:
            if index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ValueError("the index's metric is not the inner product that the towers learned")
            if index.d != self.dim:
                raise ValueError(f"the index holds {index.d} dimensions, item vectors have {self.dim}")
        self.shards, self.packed_vectors, self.search_params = list(shards), packed_vectors, search_params
        # Any: faiss makes its wrappers at run time.
        self.ivf_indexes: list[Any] = [faiss.try_extract_index_ivf(index) for index in shards]
        self.centroids: torch.Tensor | None = None  # [D, nlist]
        if self.ivf_indexes[0] is not None:
            centroids = ivf_centroids(self.ivf_indexes[0])
            if not all(np.array_equal(centroids, ivf_centroids(ivf)) for ivf in self.ivf_indexes[1:]):
                raise ValueError("the shards of the index come from different builds: export again")
            self.centroids = torch.from_numpy(centroids.T.copy())

    def search(self, queries: Vectors, k: int, eligible: NDArray[np.bool_] | None = None) -> Rows:
        """Returns the `k` nearest item rows of each query [B, D], best first: [B, k].

        Where the probed lists hold no more rows, the result is -1.

        With `eligible` [N+1] only such rows are returned, and -1 appears only after all indexed eligible
        rows. Raises ValueError for queries that are not finite or have a wrong width, and for a negative k.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries of shape {queries.shape}, expected [B, {self.dim}]")
        if not np.isfinite(queries).all():
            raise ValueError("a query vector is not finite")
        if k < 0:
            raise ValueError(f"k is {k}: expected 0 or more")
        if k == 0:  # no candidate source searches the index
            return np.empty((len(queries), 0), np.int64)
        queries = np.ascontiguousarray(queries, np.float32)
        probes, margin = self.search_params.probes, self.search_params.centroid_margin
        if eligible is None:
            return self._search_refined(queries, k, probes, margin, None)
        if int(np.count_nonzero(eligible)) <= max(MAX_EXACT_ITEMS, k):
            return self.search_exact(queries, k, np.flatnonzero(eligible))
        selector = untyped_faiss.IDSelectorBitmap(np.packbits(eligible, bitorder="little"))
        rows = self._search_refined(queries, k, probes, margin, selector)
        incomplete = np.flatnonzero(rows[:, -1] < 0)
        max_probes = self.max_probes()
        while len(incomplete):  # the probed lists hold too few eligible items
            probes *= PROBE_GROWTH
            rows[incomplete] = self._search_refined(
                queries[incomplete], k, min(probes, max_probes), float("inf"), selector
            )
            if probes >= max_probes:
                break
            incomplete = incomplete[rows[incomplete, -1] < 0]
        return rows

    def with_search_params(self, search_params: SearchParams) -> "ItemIndex":
        """The same index with other search parameters."""
        index = copy(self)
        index.search_params = search_params
        return index

    def max_probes(self) -> int:
        """The number of probes that searches the whole index."""
        if self.centroids is not None:
            return self.centroids.shape[1]
        return max(index.ntotal for index in self.shards)

    def _search_refined(self, queries: Vectors, k: int, probes: int, margin: float, selector: Any) -> Rows:
        if self.search_params.refine_factor <= 1:
            return self._search_shards(queries, k, probes, margin, selector)
        wide_k = round(k * self.search_params.refine_factor)
        rows = self._search_shards(queries, wide_k, probes, margin, selector)
        scores = np.where(rows >= 0, self._inner_products(queries, rows), -np.inf)
        top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1), 1)
        return np.take_along_axis(rows, top, 1)

    def _search_shards(self, queries: Vectors, k: int, probes: int, margin: float, selector: Any) -> Rows:
        """Returns the rows [B, k] in the order of the index."""
        if self.centroids is None:
            # A graph search also walks through ineligible nodes.
            params = untyped_faiss.SearchParametersHNSW(efSearch=max(probes, k), sel=selector)
            results = [index.search(queries, k, params=params) for index in self.shards]
        else:
            probed = self.probe_lists(queries, probes, margin)
            params = untyped_faiss.SearchParametersIVF(nprobe=probed.lists.shape[1], sel=selector)
            results = [search_lists(ivf, queries, k, probed, params) for ivf in self.ivf_indexes]
        if len(results) == 1:
            only_rows: Rows = results[0][1]
            return only_rows
        scores, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*results, strict=True))
        return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1)

    def probe_lists(self, queries: Vectors, probes: int, margin: float) -> ProbedLists:
        """The lists to search: the lists of the `probes` nearest centroids, if within the margin.

        The index's own quantizer would sort `probes` lists for every query, although few are within the
        margin.
        """
        # torch keeps to the one thread that serving gives it.
        assert self.centroids is not None
        products = (torch.from_numpy(queries) @ self.centroids).numpy()  # [B, nlist]
        in_margin = [np.flatnonzero(row >= row.max() - margin) for row in products]
        width = min(probes, max(map(len, in_margin)))
        scores = np.full((len(queries), width), -np.inf, np.float32)
        lists = np.full((len(queries), width), -1, np.int64)
        for row, candidates in enumerate(in_margin):
            score = products[row, candidates]
            if len(candidates) > width:
                top = np.argpartition(-score, width - 1)[:width]
                candidates, score = candidates[top], score[top]
            order = np.argsort(-score)
            lists[row, : len(candidates)], scores[row, : len(candidates)] = candidates[order], score[order]
        return ProbedLists(scores, lists)

    def search_exact(self, queries: Vectors, k: int, eligible_rows: Rows) -> Rows:
        """Returns the k best of `eligible_rows` [n] for each query, by exact score: [B, k], best first.

        If n < k, -1 fills the rest.
        """
        rows = np.full((len(queries), k), -1, np.int64)
        if len(eligible_rows):
            scores = self._inner_products(queries, eligible_rows[None])
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            rows[:, : order.shape[1]] = eligible_rows[order]
        return rows

    def _inner_products(self, queries: Vectors, rows: Rows) -> Vectors:
        """Returns the inner products [B, n] of queries [B, D] with the int8 vectors of rows [B or 1, n]."""
        packed = self.packed_vectors[rows]  # [., n, D+8]
        scale, offset = np.moveaxis(np.ascontiguousarray(packed[..., -8:]).view(np.float32), -1, 0)
        codes = packed[..., :-8].astype(np.float32)
        if len(rows) == 1:
            products = queries @ codes[0].T
        else:
            products = np.einsum("bnd,bd->bn", codes, queries, optimize=True)
        scores: Vectors = products * scale + offset * queries.sum(1, keepdims=True)
        return scores


def ivf_centroids(ivf: faiss.IndexIVF) -> Vectors:
    """The centroids [nlist, D] of an inverted file."""
    centroids: Vectors = ivf.quantizer.reconstruct_n(0, ivf.nlist)
    return centroids


def search_lists(
    ivf: Any, queries: Vectors, k: int, probed: ProbedLists, params: Any
) -> tuple[Vectors, Rows]:
    """Searches the probed lists of an inverted file. Returns scores and item rows, each [B, k]."""
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    # faiss's own Python for preassigned lists takes no search parameters.
    ivf.search_preassigned_c(
        len(queries), pointer(queries), k, pointer(probed.lists), pointer(probed.scores),
        pointer(scores), pointer(rows), False, params,
    )  # fmt: skip
    return scores, rows
