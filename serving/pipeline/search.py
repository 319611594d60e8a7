"""Searches for the items nearest to one request, and collects the candidates of all sources."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..resilience.deadline import finite_output
from ..storage.bundle import Bundle, Candidates
from ..storage.vector_index import ItemIndex
from .eligibility import EligibleItems

MAX_OVERFETCH = 200  # removed items; with more, or with categories, the index filters
EMPTY_ROWS = np.zeros([1, 0], np.int64)  # the result if the index fails


def search_eligible(
    index: ItemIndex, vector: Tensor, n_rows: int, eligible: EligibleItems
) -> NDArray[np.int64]:
    """Returns the rows of the eligible items nearest to `vector` [1, D], best first.

    The result is [1, K] with K ≤ n_rows. After the last item it holds -1.

    If few items are ineligible, they are fetched and dropped, which is cheaper than a filter inside the
    index. Items that the index lacks are searched exactly.
    """
    rows = _search_index(index, vector, n_rows, eligible)
    if eligible.unindexed is None or not n_rows:
        return rows
    further = eligible.unindexed[eligible.mask[eligible.unindexed]]
    if not len(further):
        return rows
    return index.search_exact(vector.numpy(), n_rows, np.union1d(rows[rows >= 0], further))


def _search_index(
    index: ItemIndex, vector: Tensor, n_rows: int, eligible: EligibleItems
) -> NDArray[np.int64]:
    n_removed = eligible.n_removed
    if eligible.has_categories or n_removed > MAX_OVERFETCH:
        return index.search(vector.numpy(), n_rows, eligible.mask)
    rows = index.search(vector.numpy(), n_rows + n_removed if n_rows else 0)
    return rows[:, (rows[0] >= 0) & eligible.mask[rows[0]]][:, :n_rows] if n_removed else rows


def propose_candidates(
    bundle: Bundle, query: tuple[Tensor, ...], vector: Tensor, eligible: EligibleItems
) -> Candidates:
    """Returns the candidates of one checkout.

    `query` has the fields encode.QUERY_FIELDS, and `vector` [1, D] is its vector.

    The call has no deadline. Raises the exceptions of the index and the module, and StageSkipped for output
    that is not finite.
    """
    n_rows = int(bundle.manifest["candidates"]["ann"])
    ann_rows = torch.from_numpy(search_eligible(bundle.index, vector, n_rows, eligible))
    catalog = eligible.restrict_catalog(bundle.catalog)
    return Candidates(*finite_output(bundle.candidates, query, vector, ann_rows, catalog))
