"""Keys of proposed items, and their rank within a source and a checkout.

The personalised sources are ranked together. The key of an item is

    (position * n_checkouts + checkout) * n_items + item       position: of the source (`key_positions`)

so sorted keys lie source by source and checkout by checkout.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import sort_by_segment_and_score


class SourceRanking(NamedTuple):
    """n proposals, source by source and checkout by checkout, the highest score first."""

    key: Tensor  # [n] int64
    rank: Tensor  # [n] int64, 0 for the highest score of the source and checkout
    source: Tensor  # [n] int64, position of the source


def key_positions(rankings: Sequence[str], lists: Mapping[str, str | None]) -> dict[str, int]:
    """Returns each list source's position in keys. The rankings of own events have the positions 0, 1, …

    A list source that leaves out the items of a ranking looks up that ranking's keys at its own position. For
    this, the keys of all rankings are shifted by one number. No other source gets the positions they reach.

    Args:
        rankings: sources with own events.
        lists: list source → the ranking whose items it leaves out, or None.
    """
    positions: dict[str, int] = {}
    first_free = len(rankings)
    for name, ranking in lists.items():
        if ranking is None:
            positions[name] = first_free
            first_free += 1
        else:
            positions[name] = first_free + rankings.index(ranking)
            first_free += len(rankings)
    return positions


def rank_by_source(keys: Tensor, score: Tensor, n_items: int, n_checkouts: int) -> SourceRanking:
    """Rank rising keys [n] by falling score [n] within their source and checkout.

    Equal scores are ordered by item.
    """
    order, segment, rank = sort_by_segment_and_score(keys // n_items, score)
    source = segment if n_checkouts == 1 else segment // n_checkouts
    return SourceRanking(keys.index_select(0, order), rank, source)


def split_keys(keys: Tensor, n_items: int, n_checkouts: int) -> tuple[Tensor, Tensor]:
    """Splits keys `checkout * n_items + item` [n] into checkouts [n] and items [n]."""
    if n_checkouts == 1:  # one request: saves four operations
        return torch.zeros_like(keys), keys
    checkout = keys // n_items
    return checkout, keys - checkout * n_items
