"""Sources that sum item lists over seeds: `co_purchase`, `category` and `ease`.

A seed is a row of the concatenated lists, read for one checkout with a weight. The score of an item is the
sum of weight · list score over the seeds of its source and checkout.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.candidates.keys import SourceRanking
from models.jagged import gather_segments, sum_by_key
from models.schema import Query


class ListSeeds(NamedTuple):
    """n rows of the concatenated lists that a source reads."""

    row: Tensor  # [n] int64
    base_key: Tensor  # [n] int64, key of item 0 of the seed's source and checkout
    weight: Tensor  # [n] float32


def co_purchase_seeds(query: Query, basket_keys: Tensor, source_key: int, weight: Tensor) -> ListSeeds:
    """The basket's items: their lists hold the items bought with or after them.

    Args:
        basket_keys: [ΣK] key of item 0 of each basket line's checkout.
        source_key: first key of the source.
        weight: [ΣK].
    """
    return ListSeeds(query.basket_item, basket_keys + source_key, weight)


def category_seeds(
    query: Query, basket_keys: Tensor, source_key: int, weight: Tensor, leaf: Tensor, first_row: int
) -> ListSeeds:
    """The leaf categories of the basket's items: their lists, from `first_row`, hold their bestsellers.

    Args as of `co_purchase_seeds`, and `leaf` [N+1], the leaf category by item.
    """
    return ListSeeds(first_row + leaf.index_select(0, query.basket_item), basket_keys + source_key, weight)


def ease_seeds(
    own_items: SourceRanking,
    source_key: int,
    n_seed_items: Tensor,
    rank_discount: Tensor,
    n_items: int,
    first_row: int,
) -> ListSeeds:
    """The user's top own items: their lists, from `first_row`, hold their EASE neighbours.

    Args:
        n_seed_items: [event sources] number of own items that are seeds, by source.
        rank_discount: [n_seed_items.max()] weight by rank. A discount by age would treat users with many
            and with few orders a year differently.
    """
    top = (own_items.rank < n_seed_items.index_select(0, own_items.source)).nonzero().squeeze(1)
    own_key = own_items.key.index_select(0, top)
    item = own_key % n_items
    weight = rank_discount.index_select(0, own_items.rank.index_select(0, top))
    return ListSeeds(first_row + item, own_key - item + source_key, weight)


def sum_lists(
    offsets: Tensor,
    items: Tensor,
    scores: Tensor,
    co_purchase: ListSeeds,
    category: ListSeeds,
    ease: ListSeeds,
) -> tuple[Tensor, Tensor]:
    """Rising keys [U] of the items in the seeds' lists, and their weighted sums of list scores [U]."""
    row = torch.cat([co_purchase.row, category.row, ease.row])
    base_key = torch.cat([co_purchase.base_key, category.base_key, ease.base_key])
    weight = torch.cat([co_purchase.weight, category.weight, ease.weight])
    position, seed, _ = gather_segments(offsets, row)
    return sum_by_key(
        base_key.index_select(0, seed) + items.index_select(0, position),
        scores.index_select(0, position) * weight.index_select(0, seed),
    )
