"""Eligible items of a checkout: available, in a requested category, not excluded."""

from collections.abc import Collection
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkout import Checkout
from ..storage.formats import CATALOG_FIELDS
from ..storage.item_ids import ItemRowMap

CACHE_SIZE = 64  # category masks, a byte per item each
AVAILABLE_FIELD = CATALOG_FIELDS.index("available")


class EligibilityFilter:
    """Masks of eligible items.

    Args:
        available: [N+1] bool.
        category: [N+1] paths a/b/c.
        item_rows: item id → row, 0 for unknown.
    """

    def __init__(self, available: NDArray[np.bool_], category: pa.StringArray, item_rows: ItemRowMap) -> None:
        self.available, self.category, self.item_rows = available, category, item_rows
        # A cached method would refer to this object. That cycle would keep its bundle in memory, because the
        # recommender's objects are frozen out of garbage collection.
        self._category_mask = lru_cache(CACHE_SIZE)(partial(_category_mask, available, category))

    def mask(self, checkout: Checkout) -> NDArray[np.bool_]:
        """[N+1] bool: the items that may be shown. Shared between requests: read only."""
        mask = self.available
        if checkout.categories is not None:
            mask = self._category_mask(frozenset(checkout.categories))
        if not checkout.exclude:
            return mask
        mask = mask.copy()
        mask[self.excluded_rows(checkout.exclude)] = False
        return mask

    def excluded_rows(self, item_ids: Collection[str]) -> list[int]:
        """Rows of the ids that the bundle has."""
        return [row for row in self.item_rows.lookup(item_ids) if row]

    def restrict_catalog(
        self, catalog: tuple[Tensor, ...], eligible: NDArray[np.bool_]
    ) -> tuple[Tensor, ...]:
        """The catalog with only the items of `eligible` [N+1] available; itself without a restriction.

        Candidate sources read `available`. Without the restriction ineligible items would take places.
        """
        if eligible is self.available:
            return catalog
        return *catalog[:AVAILABLE_FIELD], torch.from_numpy(eligible), *catalog[AVAILABLE_FIELD + 1 :]


def _category_mask(
    available: NDArray[np.bool_], category: pa.StringArray, paths: frozenset[str]
) -> NDArray[np.bool_]:
    """[N+1] bool: the available items of the categories and of all below them."""
    mask = np.zeros(len(available), np.bool_)
    for path in paths:
        in_path = pc.or_(pc.equal(category, path), pc.starts_with(category, f"{path}/"))
        mask |= in_path.fill_null(False).to_numpy(zero_copy_only=False)
    return mask & available
