"""The nearest items of a query vector: only those that may be shown, and as many as there are.

    query ─ coarse centroids ─▶ lists ─ codes ─▶ k · refine ─ int8 vectors ─▶ k best
                 │                 ╰─ id selector: ineligible ids are never seen
                 ╰─ lists far behind the nearest one are skipped

A filter that leaves too few of the items in the lists that were searched widens the search, and one that
leaves few items at all is answered by looking at each of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
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
        index: answers with item rows; inner product.
        packed: [N+1, D+8] uint8, the row-wise int8 item vectors.
        effort: how it is searched.

    Raises ValueError where the metric or the dimensions do not fit.
    """

    def __init__(self, index: faiss.Index, packed: NDArray, effort: Effort) -> None:
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("the index's metric is not the inner product that the towers were trained on")
        if index.d != packed.shape[1] - 8:
            raise ValueError(f"the index holds {index.d} dimensions, item vectors have {packed.shape[1] - 8}")
        self.index, self.packed, self.effort = index, packed, effort
        self.lists: Any = faiss.try_extract_index_ivf(index)  # its wrappers are made at run time

    def search(self, queries: NDArray, k: int, allowed: NDArray | None = None) -> NDArray:
        """The `k` nearest item rows of each query [B, D] float32, best first: [B, k] int64, -1 for none left.

        With `allowed` [N+1] bool only such rows are found, and -1 stands only behind all of them that are in
        the index. Raises ValueError for queries that are not finite or of another width, and for k < 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.index.d:
            raise ValueError(f"queries of shape {queries.shape}, expected [B, {self.index.d}]")
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
        probes, most = self.effort.probes * WIDER, self._most()
        while len(short):  # the filter took too many of what lies near
            found[short] = self._refined(queries[short], k, min(probes, most), float("inf"), selector)
            short = short[found[short, -1] < 0] if probes < most else short[:0]
            probes *= WIDER
        return found

    def _most(self) -> int:
        return self.lists.nlist if self.lists is not None else self.index.ntotal

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
        if self.lists is None:
            # A graph is walked through what is not allowed, too.
            params = kinds.SearchParametersHNSW(efSearch=max(probes, k), sel=selector)
            return self.index.search(queries, k, params=params)[1]
        probes = min(probes, self.lists.nlist)
        near, lists = self.lists.quantizer.search(queries, probes)
        if margin < float("inf"):
            lists[near < near[:, :1] - margin] = -1
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        params = kinds.SearchParametersIVF(nprobe=probes, sel=selector)
        point = faiss.swig_ptr
        # What faiss's own Python gives to a search with lists that are chosen already takes no parameters.
        self.lists.search_preassigned_c(
            len(queries),
            point(queries),
            k,
            point(lists),
            point(near),
            point(scores),
            point(rows),
            False,
            params,
        )
        return rows

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
