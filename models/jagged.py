"""Operations on jagged tensors (flat values with offsets), all scriptable and free of row loops.

Groups are found by sorting 64-bit keys `segment * size + id`, so one call serves a whole batch.
"""

import torch
from torch import Tensor


def segment_ids(offsets: Tensor) -> Tensor:
    """[B+1] offsets to the segment of each value: [0, 2, 2, 5] → [0, 0, 2, 2, 2]."""
    lengths = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(lengths.numel(), device=offsets.device), lengths)


def offsets_of(segments: Tensor, count: int) -> Tensor:
    """Sorted segment ids [n] to offsets [count+1]; the inverse of `segment_ids`."""
    lengths = torch.bincount(segments, minlength=count)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def gather_segments(offsets: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the values of the chosen segments, and the length of each: ([Σl], [n])."""
    start = offsets[segments]
    lengths = offsets[segments + 1] - start
    ends = lengths.cumsum(0)
    shift = torch.repeat_interleave(start - (ends - lengths), lengths)  # [Σl]
    return torch.arange(shift.numel(), device=offsets.device) + shift, lengths


def segment_sum(values: Tensor, segments: Tensor, count: int) -> Tensor:
    """Sum of the rows of each segment: values [n, F], segments [n] → [count, F]."""
    return values.new_zeros([count, values.shape[1]]).index_add_(0, segments, values)


def group_sum(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct keys in rising order [U] and the sum of their rows [U, F]."""
    unique, inverse = torch.unique(keys, return_inverse=True)
    return unique, segment_sum(values, inverse, unique.numel())


def lookup(unique: Tensor, table: Tensor, keys: Tensor) -> Tensor:
    """Rows of `table` [U, F] whose key in sorted `unique` [U] equals `keys` [n]; zeros for no match."""
    if unique.numel() == 0:
        return table.new_zeros([keys.numel(), table.shape[1]])
    position = torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)
    return table[position] * (unique[position] == keys).unsqueeze(1)


def contains(unique: Tensor, keys: Tensor) -> Tensor:
    """[n] bool: which of `keys` [n] are in sorted `unique` [U]."""
    if unique.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    return unique[torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)] == keys


def rank_in_segment(segments: Tensor, score: Tensor) -> Tensor:
    """Rank of each value by falling score inside its segment, 0 first; ties by position: [n] int64."""
    by_score = torch.argsort(score, descending=True, stable=True)
    if score.numel() > 0 and bool(segments.min() == segments.max()):  # one request: a sort less
        rank = torch.empty_like(by_score)
        rank[by_score] = torch.arange(by_score.numel(), device=by_score.device)
        return rank
    order = by_score[torch.argsort(segments[by_score], stable=True)]
    ordered = segments[order]
    place = torch.arange(order.numel(), device=order.device)
    rank = torch.empty_like(order)
    rank[order] = place - torch.searchsorted(ordered, ordered)
    return rank
