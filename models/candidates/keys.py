"""Keys of proposed items, and their rank within a source and a checkout.

The personalised sources are ranked together. The key of an item is

    (source * n_checkouts + checkout) * n_items + item       source: position in PERSONALISED_SOURCES

so sorted keys lie source by source and checkout by checkout.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import sort_by_segment_and_score


class SourceRanking(NamedTuple):
    """n proposals, source by source and checkout by checkout, the highest score first."""

    key: Tensor  # [n] int64
    rank: Tensor  # [n] int64, 0 for the highest score of the source and checkout
    source: Tensor  # [n] int64, position in PERSONALISED_SOURCES


def rank_by_source(keys: Tensor, score: Tensor, n_items: int, n_checkouts: int) -> SourceRanking:
    """Rising keys [n] by falling score [n] within their source and checkout; ties by item."""
    order, segment, rank = sort_by_segment_and_score(keys // n_items, score)
    source = segment if n_checkouts == 1 else segment // n_checkouts
    return SourceRanking(keys.index_select(0, order), rank, source)


def split_keys(keys: Tensor, n_items: int, n_checkouts: int) -> tuple[Tensor, Tensor]:
    """Checkouts [n] and items [n] of keys `checkout * n_items + item` [n]."""
    if n_checkouts == 1:  # one request: saves four operations
        return torch.zeros_like(keys), keys
    checkout = keys // n_items
    return checkout, keys - checkout * n_items
