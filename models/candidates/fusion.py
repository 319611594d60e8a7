"""Fusion: merges the proposals of all sources, drops duplicates and keeps the best."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.candidates.keys import SourceRanking, split_keys
from models.jagged import top_k_in_segment


class Proposals(NamedTuple):
    """The n items that sources propose. A source proposes an item at most once per checkout."""

    key: Tensor  # [n] int64, checkout * n_items + item
    source_bit: Tensor  # [n] int64
    rank: Tensor  # [n] int64, rank in the source's list of the checkout, 0 first


def global_proposals(
    ann: Tensor, ann_bit: int, items: Tensor, source_bits: Tensor, ranks: Tensor, n_items: int
) -> Proposals:
    """Returns the proposals of the index and of the global lists for each checkout.

    `ann` [B, K] are the item rows of the index, -1 for none; -1 becomes the unknown item, which is not
    available. `items` [G] are the items of the global lists.
    """
    n_checkouts, k = ann.shape
    key = torch.cat([ann.clamp_min(0), items.expand(n_checkouts, -1)], dim=1)  # [B, K + G]
    if n_checkouts > 1:
        key = key + torch.arange(n_checkouts, device=ann.device).unsqueeze(1) * n_items
    ann_rank = torch.arange(k, device=ann.device)
    bits = torch.cat([torch.full_like(ann_rank, ann_bit), source_bits])
    rank = torch.cat([ann_rank, ranks])
    return Proposals(
        key.flatten(), bits.expand(n_checkouts, -1).flatten(), rank.expand(n_checkouts, -1).flatten()
    )


def top_proposals(
    own_items: SourceRanking,
    neighbours: SourceRanking,
    source_limits: Tensor,
    source_bits: Tensor,
    rank_offset: Tensor,
    source_stride: int,
) -> Proposals:
    """The top proposals of the personalised sources, at most `source_limits` [sources] each.

    Args:
        source_bits: [sources].
        rank_offset: [sources] number of items that the source proposes before these.
        source_stride: number of keys of a source.
    """
    source = torch.cat([own_items.source, neighbours.source])
    rank = torch.cat([own_items.rank, neighbours.rank])
    top = (rank < source_limits.index_select(0, source)).nonzero().squeeze(1)
    source, rank = source.index_select(0, top), rank.index_select(0, top)
    key = torch.cat([own_items.key, neighbours.key]).index_select(0, top) - source * source_stride
    return Proposals(key, source_bits.index_select(0, source), rank + rank_offset.index_select(0, source))


def fuse(
    everyone: Proposals,
    personalised: Proposals,
    available: Tensor,
    max_candidates: int | None,
    n_checkouts: int,
) -> tuple[Tensor, Tensor]:
    """Returns the best available items, at most `max_candidates` per checkout: rising keys [ΣC] and masks.

    A mask has the bits of the sources that propose the item. The best items have the highest sum of
    1 / (60 + rank) over their sources. This is reciprocal rank fusion (Cormack et al., SIGIR 2009). It reads
    ranks, so the scores of the sources need no common scale.
    """
    n_items = available.numel()
    key = torch.cat([everyone.key, personalised.key])
    source_bit = torch.cat([everyone.source_bit, personalised.source_bit])
    kept = available.index_select(0, split_keys(key, n_items, n_checkouts)[1]).nonzero().squeeze(1)
    merged, inverse = torch.unique(key.index_select(0, kept), return_inverse=True)
    source_mask = torch.zeros_like(merged).index_add_(0, inverse, source_bit.index_select(0, kept))
    if max_candidates is not None:
        rank = torch.cat([everyone.rank, personalised.rank]).index_select(0, kept)
        score = torch.zeros_like(merged, dtype=torch.float32).index_add_(
            0, inverse, (60.0 + rank).reciprocal()
        )
        checkout, _ = split_keys(merged, n_items, n_checkouts)
        best = top_k_in_segment(checkout, score, max_candidates, n_checkouts)
        merged, source_mask = merged.index_select(0, best), source_mask.index_select(0, best)
    return merged, source_mask
