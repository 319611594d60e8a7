"""The nearest items of a query vector: only those that may be shown, and as many as there are.

    query ─ coarse centroids ─▶ lists ─ codes ─▶ k · refine ─ int8 vectors ─▶ k best
                 │                 │ ╰─ id selector: ineligible ids are never seen
                 │                 ╰─ of every shard, then the best of all
                 ╰─ lists far behind the nearest one are skipped

Shards hold different items under the same centroids, so a query chooses its lists once for all of them. A
filter that leaves too few of the items in the lists that were searched widens the search, and one that leaves
few items at all is answered by looking at each of them.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

untyped_faiss: Any = faiss  # its Python takes arrays and keywords that its type stubs do not know
MAX_EXACT_ITEMS = 2_000  # items that are faster looked at one by one than found
PROBE_GROWTH = 4  # times the lists, each time that too few were found


@dataclass(frozen=True, slots=True)
class SearchParams:
    """How hard an index is searched.

    Args:
        probes: lists of an inverted file (nprobe), or nodes that a graph keeps in view (efSearch).
        margin: lists whose centroid's inner product with the query is more than this below that of the
            nearest one are skipped, so that a query in a dense place costs less; infinity for none.
        refine: how many times the items that are wanted are taken from the index and ordered anew by their
            int8 vectors; 1 to leave the order as the index has it.
    """

    probes: int
    centroid_margin: float = float("inf")
    refine_factor: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For a manifest, which knows no infinity."""
        margin = None if self.centroid_margin == float("inf") else self.centroid_margin
        return {"probes": self.probes, "margin": margin, "refine": self.refine_factor}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> "SearchParams":
        """The inverse of `to_json`."""
        margin = about["margin"]
        margin = float("inf") if margin is None else float(margin)
        return cls(int(about["probes"]), margin, float(about["refine"]))


def read_index(file: str) -> faiss.Index:
    """An index file with its inverted lists mapped into memory: processes share them, and loading is quick.

    Lists of fast-scan codes and graphs are read as a whole. Raises RuntimeError for what is no index.
    """
    index = faiss.read_index(file, faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    lists = faiss.try_extract_index_ivf(index)
    mapped: Any = None if lists is None else untyped_faiss.downcast_InvertedLists(lists.invlists)
    if isinstance(mapped, untyped_faiss.OnDiskInvertedLists):
        # It would start 32 threads for every query, to read from a disk what is in memory.
        mapped.prefetch_nthread = 0
    return index


class ItemIndex:
    """An index over item rows with the vectors behind it. Safe to share between threads.

    Args:
        shards: answer with item rows, each with those of its own; inner product; the same centroids.
        packed: [N+1, D+8] uint8, the row-wise int8 item vectors.
        effort: how they are searched.

    Raises ValueError where metric, dimensions or centroids do not fit.
    """

    def __init__(
        self, shards: Sequence[faiss.Index], packed_vectors: NDArray, search_params: SearchParams
    ) -> None:
        self.dim = packed_vectors.shape[1] - 8
        for index in shards:
            if index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ValueError("the index's metric is not the inner product that the towers learned")
            if index.d != self.dim:
                raise ValueError(f"the index holds {index.d} dimensions, item vectors have {self.dim}")
        self.shards, self.packed_vectors, self.search_params = list(shards), packed_vectors, search_params
        # Its wrappers are made at run time: Any.
        self.ivf_indexes: list[Any] = [faiss.try_extract_index_ivf(index) for index in shards]
        self.centroids: torch.Tensor | None = None  # [D, nlist]
        if self.ivf_indexes[0] is not None:
            first, *others = (ivf_centroids(lists) for lists in self.ivf_indexes)
            if not all(np.array_equal(first, other) for other in others):
                raise ValueError("the shards of the index are of different builds")
            self.centroids = torch.from_numpy(first.T.copy())

    def search(self, queries: NDArray, k: int, eligible: NDArray | None = None) -> NDArray:
        """The `k` nearest item rows of each query [B, D] float32, best first: [B, k] int64, -1 where what was
        searched holds no more.

        With `allowed` [N+1] bool only such rows are found, and -1 stands only behind all of them that are in
        the index. Raises ValueError for queries that are not finite or of another width, and for k < 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"queries of shape {queries.shape}, expected [B, {self.dim}]")
        if not np.isfinite(queries).all():
            raise ValueError("a query vector is not finite")
        if k < 1:
            raise ValueError(f"k is {k}: expected 1 or more")
        queries = np.ascontiguousarray(queries, np.float32)
        if eligible is None:
            return self._search_refined(
                queries, k, self.search_params.probes, self.search_params.centroid_margin, None
            )
        count = int(np.count_nonzero(eligible))
        if count <= max(MAX_EXACT_ITEMS, k):
            return self._search_exact(queries, k, np.flatnonzero(eligible))
        selector = untyped_faiss.IDSelectorBitmap(np.packbits(eligible, bitorder="little"))
        found = self._search_refined(
            queries, k, self.search_params.probes, self.search_params.centroid_margin, selector
        )
        short = np.flatnonzero(found[:, -1] < 0)
        probes, most = self.search_params.probes * PROBE_GROWTH, self.max_probes()
        while len(short):  # the filter took too many of what lies near
            found[short] = self._search_refined(queries[short], k, min(probes, most), float("inf"), selector)
            short = short[found[short, -1] < 0] if probes < most else short[:0]
            probes *= PROBE_GROWTH
        return found

    def with_search_params(self, search_params: SearchParams) -> "ItemIndex":
        """The same index at another effort."""
        other = copy(self)
        other.search_params = search_params
        return other

    def max_probes(self) -> int:
        """The probes that look everywhere."""
        if self.centroids is not None:
            return self.centroids.shape[1]
        return max(index.ntotal for index in self.shards)

    def _search_refined(self, queries: NDArray, k: int, probes: int, margin: float, selector: Any) -> NDArray:
        if self.search_params.refine_factor <= 1:
            return self._search_shards(queries, k, probes, margin, selector)
        wide = self._search_shards(
            queries, round(k * self.search_params.refine_factor), probes, margin, selector
        )
        score = np.where(wide >= 0, self._inner_products(queries, wide), -np.inf)
        best = np.argpartition(-score, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, 1), axis=1), 1)
        return np.take_along_axis(wide, best, 1)

    def _search_shards(self, queries: NDArray, k: int, probes: int, margin: float, selector: Any) -> NDArray:
        """[B, k] rows in the order of the index."""
        if self.centroids is None:
            # A graph is walked through what is not allowed, too.
            params = untyped_faiss.SearchParametersHNSW(efSearch=max(probes, k), sel=selector)
            parts = [index.search(queries, k, params=params) for index in self.shards]
        else:
            near, chosen = self.probe_lists(queries, probes, margin)
            params = untyped_faiss.SearchParametersIVF(nprobe=chosen.shape[1], sel=selector)
            parts = [search_lists(lists, queries, k, near, chosen, params) for lists in self.ivf_indexes]
        if len(parts) == 1:
            return parts[0][1]
        scores, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1)

    def probe_lists(self, queries: NDArray, probes: int, margin: float) -> tuple[NDArray, NDArray]:
        """Scores float32 and numbers int64 of the lists to search [B, most of them], best first, -1 for none.

        Not by the index's own quantizer, which orders as many as `probes` for every query: few of them pass
        the margin.
        """
        # By torch, which keeps to the one thread that serving gives it.
        assert self.centroids is not None
        inner = (torch.from_numpy(queries) @ self.centroids).numpy()  # [B, nlist]
        passed = [np.flatnonzero(row >= row.max() - margin) for row in inner]
        width = min(probes, max(map(len, passed)))
        near = np.full((len(queries), width), -np.inf, np.float32)
        chosen = np.full((len(queries), width), -1, np.int64)
        for row, lists in enumerate(passed):
            score = inner[row, lists]
            if len(lists) > width:
                best = np.argpartition(-score, width - 1)[:width]
                lists, score = lists[best], score[best]
            order = np.argsort(-score)
            chosen[row, : len(lists)], near[row, : len(lists)] = lists[order], score[order]
        return near, chosen

    def _search_exact(self, queries: NDArray, k: int, rows: NDArray) -> NDArray:
        """[B, k]: `rows` [n] in order of their exact scores."""
        found = np.full((len(queries), k), -1, np.int64)
        if len(rows):
            order = np.argsort(-self._inner_products(queries, rows[None]), axis=1, kind="stable")[:, :k]
            found[:, : order.shape[1]] = rows[order]
        return found

    def _inner_products(self, queries: NDArray, rows: NDArray) -> NDArray:
        """[B, n] float32 inner products of queries [B, D] with the int8 vectors of rows [B or 1, n]."""
        packed = self.packed_vectors[rows]  # [., n, D+8]
        scale, offset = np.moveaxis(np.ascontiguousarray(packed[..., -8:]).view(np.float32), -1, 0)
        codes = packed[..., :-8].astype(np.float32)
        if len(rows) == 1:
            inner = queries @ codes[0].T
        else:
            inner = np.einsum("bnd,bd->bn", codes, queries, optimize=True)
        return inner * scale + offset * queries.sum(1, keepdims=True)


def ivf_centroids(lists: faiss.IndexIVF) -> NDArray:
    """[nlist, D] float32 of an inverted file."""
    return lists.quantizer.reconstruct_n(0, lists.nlist)


def search_lists(
    lists: Any, queries: NDArray, k: int, near: NDArray, chosen: NDArray, params: Any
) -> tuple[NDArray, NDArray]:
    """Scores float32 and rows int64 [B, k] from the lists `chosen` [B, n], whose centroids score `near`."""
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    point = faiss.swig_ptr
    # What faiss's own Python gives to a search with lists that are chosen already takes no parameters.
    lists.search_preassigned_c(
        len(queries), point(queries), k, point(chosen), point(near), point(scores), point(rows), False, params
    )
    return scores, rows
