"""Operations on jagged tensors (flat values with offsets), all scriptable and free of row loops.

Groups are found by sorting 64-bit keys `segment * size + id`, so one call serves a whole batch.
"""

import torch
from torch import Tensor


def segment_ids(offsets: Tensor) -> Tensor:
    """[B+1] offsets to the segment of each value: [0, 2, 2, 5] → [0, 0, 2, 2, 2]."""
    if offsets.numel() == 2:  # one request: eight operations less
        return torch.zeros([int(offsets[1])], dtype=torch.int64, device=offsets.device)
    lengths = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(lengths.numel(), device=offsets.device), lengths)


def segment_offsets(segments: Tensor, count: int) -> Tensor:
    """Sorted segment ids [n] to offsets [count+1]; the inverse of `segment_ids`."""
    if count == 1:
        return torch.arange(2, device=segments.device) * segments.numel()
    lengths = torch.bincount(segments, minlength=count)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def gather_segments(offsets: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the values of the chosen segments [Σl], which of `segments` [n] each belongs to [Σl], and
    the length of each [n]."""
    start = offsets.index_select(0, segments)
    lengths = offsets.index_select(0, segments + 1) - start
    owner = torch.repeat_interleave(lengths)  # [Σl]
    shift = start - (lengths.cumsum(0) - lengths)
    position = torch.arange(owner.numel(), device=offsets.device) + shift.index_select(0, owner)
    return position, owner, lengths


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sum of the rows of each segment: values [n, F], segments [n] → [count, F]."""
    return values.new_zeros([count, values.shape[1]]).index_add_(0, segments, values)


def sum_by_key(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct keys in rising order [U] and the sum of their values: [n] to [U], or [n, F] to [U, F]."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    shape = [unique.numel()] + list(values.shape[1:])
    return unique, values.new_zeros(shape).index_add_(0, inverse, values)


def lookup(unique: Tensor, table: Tensor, keys: Tensor) -> Tensor:
    """Values of `table` [U] or rows [U, F] whose key in sorted `unique` [U] equals `keys` [n]: [n] or [n, F],
    zeros for no match."""
    if unique.numel() == 0:
        return table.new_zeros([keys.numel()] + list(table.shape[1:]))
    position = torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)
    found = unique.index_select(0, position) == keys
    return table.index_select(0, position) * (found if table.dim() == 1 else found.unsqueeze(1))


def contains(unique: Tensor, keys: Tensor) -> Tensor:
    """[n] bool: which of `keys` [n] are in sorted `unique` [U]."""
    if unique.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    return unique.index_select(0, torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)) == keys


def rank_in_segment(segments: Tensor, score: Tensor) -> Tensor:
    """Rank of each value by falling score inside its segment, 0 first; ties by position: [n] int64."""
    order, _, place = sort_by_segment_and_score(segments, score)
    rank = torch.empty_like(order)
    rank[order] = place
    return rank


def top_k_in_segment(segments: Tensor, score: Tensor, limit: int, count: int = 0) -> Tensor:
    """Rising positions of the `limit` values of the highest score of each segment; between equals the first.

    `count` is the number of segments if it is known: one alone needs no sort by segment.
    """
    if count == 1:
        return torch.argsort(score, descending=True, stable=True)[:limit].sort()[0]
    order, _, place = sort_by_segment_and_score(segments, score)
    return order.index_select(0, (place < limit).nonzero().squeeze(1)).sort()[0]


def sort_by_segment_and_score(segments: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of values by segment and falling score, ties by position [n]; the segments in that order [n],
    and the rank of each in its segment [n]."""
    order = torch.argsort(score, descending=True, stable=True)
    ordered, by_segment = segments.index_select(0, order).sort(stable=True)
    place = torch.arange(order.numel(), device=order.device)
    return order.index_select(0, by_segment), ordered, place - torch.searchsorted(ordered, ordered)
