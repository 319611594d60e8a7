"""Vector search of one request: the eligible items nearest to its query vector."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout
from ..storage.vector_index import ItemIndex

MAX_OVERFETCH = 200  # excluded items; with more, or with categories, the index filters
EMPTY_ROWS = np.zeros([1, 0], np.int64)  # the result if the index fails


def search_eligible(
    index: ItemIndex, vector: Tensor, n_rows: int, checkout: Checkout, eligible: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """[1, K ≤ n_rows] rows of the eligible items nearest to `vector` [1, D], best first; -1 past the last.

    A few excluded items cost less to fetch and drop than to filter inside the index.
    """
    n_excluded = len(checkout.exclude)
    if checkout.categories is not None or n_excluded > MAX_OVERFETCH:
        return index.search(vector.numpy(), n_rows, eligible)
    rows = index.search(vector.numpy(), n_rows + n_excluded)
    return rows[:, (rows[0] >= 0) & eligible[rows[0]]][:, :n_rows] if n_excluded else rows
