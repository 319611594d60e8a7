"""`category`: bestsellers of the leaf categories of the basket's items.

Table: `leaf_bestsellers`, from the catalog. Seeds: the basket's leaf categories.
"""

from functools import partial

import torch
from torch import Tensor

from models.candidates.item_lists import ItemLists, bestseller_lists
from models.candidates.source import BasketCategories, SeedLists, Source, SourceInputs


def source(limit: int) -> Source:
    """The source. Each category's list has at most `limit` items, too."""
    return Source(limit, seed_lists=SeedLists(BasketCategories(), partial(leaf_bestsellers, limit=limit)))


def leaf_bestsellers(inputs: SourceInputs, limit: int) -> ItemLists:
    """Returns up to `limit` bestsellers of each leaf category."""
    return bestseller_lists(*bestsellers_by_leaf(inputs.catalog.leaf, inputs.bestsellers, limit))


def bestsellers_by_leaf(leaf: Tensor, ranked: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Returns the first `limit` items of `ranked` in each leaf category, as offsets [leaves+1] and items."""
    leaves = int(leaf.max()) + 1
    ranked = ranked[leaf[ranked] > 0]
    order = leaf[ranked].argsort(stable=True)
    items = ranked[order]
    segment = leaf[items]
    rank = torch.arange(items.numel()) - torch.searchsorted(segment, segment)
    items = items[rank < limit]
    lengths = torch.bincount(leaf[items], minlength=leaves)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), items
