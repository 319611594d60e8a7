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

kinds: Any = faiss  # its Python takes arrays and keywords that its type stubs do not know
EXACT = 2_000  # items that are faster looked at one by one than found
WIDER = 4  # times the lists, each time that too few were found


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an index is searched.

    Args:
        probes: lists of an inverted file (nprobe), or nodes that a graph keeps in view (efSearch).
        margin: lists whose centroid's inner product with the query is more than this below that of the
            nearest one are skipped, so that a query in a dense place costs less; infinity for none.
        refine: how many times the items that are wanted are taken from the index and ordered anew by their
            int8 vectors; 1 to leave the order as the index has it.
    """

    probes: int
    margin: float = float("inf")
    refine: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For a manifest, which knows no infinity."""
        margin = None if self.margin == float("inf") else self.margin
        return {"probes": self.probes, "margin": margin, "refine": self.refine}

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Effort":
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
    mapped: Any = None if lists is None else kinds.downcast_InvertedLists(lists.invlists)
    if isinstance(mapped, kinds.OnDiskInvertedLists):
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

    def __init__(self, shards: Sequence[faiss.Index], packed: NDArray, effort: Effort) -> None:
        self.dim = packed.shape[1] - 8
        for index in shards:
            if index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ValueError("the index's metric is not the inner product that the towers learned")
            if index.d != self.dim:
                raise ValueError(f"the index holds {index.d} dimensions, item vectors have {self.dim}")
        self.shards, self.packed, self.effort = list(shards), packed, effort
        # Its wrappers are made at run time: Any.
        self.lists: list[Any] = [faiss.try_extract_index_ivf(index) for index in shards]
        self.centroids: torch.Tensor | None = None  # [D, nlist]
        if self.lists[0] is not None:
            first, *others = (centroids_of(lists) for lists in self.lists)
            if not all(np.array_equal(first, other) for other in others):
                raise ValueError("the shards of the index are of different builds")
            self.centroids = torch.from_numpy(first.T.copy())

    def search(self, queries: NDArray, k: int, allowed: NDArray | None = None) -> NDArray:
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
        if allowed is None:
            return self._refined(queries, k, self.effort.probes, self.effort.margin, None)
        count = int(np.count_nonzero(allowed))
        if count <= max(EXACT, k):
            return self._every(queries, k, np.flatnonzero(allowed))
        selector = kinds.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        found = self._refined(queries, k, self.effort.probes, self.effort.margin, selector)
        short = np.flatnonzero(found[:, -1] < 0)
        probes, most = self.effort.probes * WIDER, self.most()
        while len(short):  # the filter took too many of what lies near
            found[short] = self._refined(queries[short], k, min(probes, most), float("inf"), selector)
            short = short[found[short, -1] < 0] if probes < most else short[:0]
            probes *= WIDER
        return found

    def at(self, effort: Effort) -> "ItemIndex":
        """The same index at another effort."""
        other = copy(self)
        other.effort = effort
        return other

    def most(self) -> int:
        """The probes that look everywhere."""
        if self.centroids is not None:
            return self.centroids.shape[1]
        return max(index.ntotal for index in self.shards)

    def _refined(self, queries: NDArray, k: int, probes: int, margin: float, selector: Any) -> NDArray:
        if self.effort.refine <= 1:
            return self._found(queries, k, probes, margin, selector)
        wide = self._found(queries, round(k * self.effort.refine), probes, margin, selector)
        score = np.where(wide >= 0, self._scores(queries, wide), -np.inf)
        best = np.argpartition(-score, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, 1), axis=1), 1)
        return np.take_along_axis(wide, best, 1)

    def _found(self, queries: NDArray, k: int, probes: int, margin: float, selector: Any) -> NDArray:
        """[B, k] rows in the order of the index."""
        if self.centroids is None:
            # A graph is walked through what is not allowed, too.
            params = kinds.SearchParametersHNSW(efSearch=max(probes, k), sel=selector)
            parts = [index.search(queries, k, params=params) for index in self.shards]
        else:
            near, chosen = self.chosen(queries, probes, margin)
            params = kinds.SearchParametersIVF(nprobe=chosen.shape[1], sel=selector)
            parts = [scanned(lists, queries, k, near, chosen, params) for lists in self.lists]
        if len(parts) == 1:
            return parts[0][1]
        scores, rows = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable")[:, :k], 1)

    def chosen(self, queries: NDArray, probes: int, margin: float) -> tuple[NDArray, NDArray]:
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

    def _every(self, queries: NDArray, k: int, rows: NDArray) -> NDArray:
        """[B, k]: `rows` [n] in order of their exact scores."""
        found = np.full((len(queries), k), -1, np.int64)
        if len(rows):
            order = np.argsort(-self._scores(queries, rows[None]), axis=1, kind="stable")[:, :k]
            found[:, : order.shape[1]] = rows[order]
        return found

    def _scores(self, queries: NDArray, rows: NDArray) -> NDArray:
        """[B, n] float32 inner products of queries [B, D] with the int8 vectors of rows [B or 1, n]."""
        packed = self.packed[rows]  # [., n, D+8]
        scale, offset = np.moveaxis(np.ascontiguousarray(packed[..., -8:]).view(np.float32), -1, 0)
        codes = packed[..., :-8].astype(np.float32)
        if len(rows) == 1:
            inner = queries @ codes[0].T
        else:
            inner = np.einsum("bnd,bd->bn", codes, queries, optimize=True)
        return inner * scale + offset * queries.sum(1, keepdims=True)


def centroids_of(lists: faiss.IndexIVF) -> NDArray:
    """[nlist, D] float32 of an inverted file."""
    return lists.quantizer.reconstruct_n(0, lists.nlist)


def scanned(
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
