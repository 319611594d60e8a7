"""Which items may be shown to a checkout: available, in a category that is asked for, not excluded."""

from collections.abc import Collection
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout
from ..storage.bundle import CATALOG_FIELDS
from ..storage.item_ids import ItemRowMap

CACHE_SIZE = 64  # allow-lists of categories, a byte per item each


class EligibilityFilter:
    """`eligible(checkout)` → [N+1] bool, which may be shared: not to be changed.

    Args:
        available: [N+1] bool. category: [N+1] paths a/b/c. row_of: item id → row, 0 for unknown.
    """

    def __init__(self, available: NDArray, category: pa.StringArray, item_rows: ItemRowMap) -> None:
        self.available, self.category, self.item_rows = available, category, item_rows
        # No method of this object: with a cache of it, it would refer to itself and outlive its bundle until
        # the garbage collector looks, which it does not at what a recommender has taken from it.
        self._category_mask = lru_cache(CACHE_SIZE)(partial(_category_mask, available, category))

    def __call__(self, checkout: Checkout) -> NDArray:
        base = self.available
        if checkout.categories is not None:
            base = self._category_mask(frozenset(checkout.categories))
        if not checkout.exclude:
            return base
        allowed = base.copy()
        allowed[self.excluded_rows(checkout.exclude)] = False
        return allowed

    def excluded_rows(self, item_ids: Collection[str]) -> list[int]:
        """Rows of ids; those that the bundle does not know are left out."""
        return [row for row in self.item_rows.lookup(item_ids) if row]


def _category_mask(available: NDArray, category: pa.StringArray, paths: frozenset[str]) -> NDArray:
    """[N+1] bool: the available items of some categories."""
    inside = np.zeros(len(available), bool)
    for path in paths:
        below = pc.or_(pc.equal(category, path), pc.starts_with(category, f"{path}/"))
        inside |= below.fill_null(False).to_numpy(zero_copy_only=False)
    return inside & available


def restrict_catalog(catalog: tuple[Tensor, ...], allowed: NDArray) -> tuple[Tensor, ...]:
    """A catalog in which only the items of `allowed` [N+1] bool are available."""
    place = CATALOG_FIELDS.index("available")
    return *catalog[:place], torch.from_numpy(allowed), *catalog[place + 1 :]
