"""Operations on jagged tensors (flat values with offsets). All are scriptable and free of row loops.

Values are grouped by sorted 64-bit keys `segment * size + id`, so one call handles a whole batch.
"""

import torch
from torch import Tensor


def segment_ids(offsets: Tensor) -> Tensor:
    """Turns offsets [B+1] into the segment of each value: [0, 2, 2, 5] → [0, 0, 2, 2, 2]."""
    if offsets.numel() == 2:  # one request: saves eight operations
        return torch.zeros([int(offsets[1])], dtype=torch.int64, device=offsets.device)
    lengths = offsets[1:] - offsets[:-1]
    return torch.repeat_interleave(torch.arange(lengths.numel(), device=offsets.device), lengths)


def segment_offsets(segments: Tensor, n_segments: int) -> Tensor:
    """Turns sorted segment ids [n] into offsets [n_segments+1]; the inverse of `segment_ids`."""
    if n_segments == 1:
        return torch.arange(2, device=segments.device) * segments.numel()
    lengths = torch.bincount(segments, minlength=n_segments)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def padded_positions(offsets: Tensor, segments: Tensor) -> tuple[Tensor, int]:
    """The position of each value in a padded matrix [n_segments, width], and its width, 1 at least.

    offsets = [0, 2, 2, 5]  →  positions [0, 1, 6, 7, 8], width 3.
    """
    lengths = offsets[1:] - offsets[:-1]
    width = max(int(lengths.max()), 1)
    index = torch.arange(segments.numel(), device=segments.device)
    return segments * width + index - offsets.index_select(0, segments), width


def gather_segments(offsets: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Finds the values of `segments` [n].

    Returns their positions [Σl], the index into `segments` of each value [Σl], and the length of each
    segment [n].
    """
    start = offsets.index_select(0, segments)
    lengths = offsets.index_select(0, segments + 1) - start
    index = torch.repeat_interleave(lengths)  # [Σl]
    shift = start - (lengths.cumsum(0) - lengths)
    positions = torch.arange(index.numel(), device=offsets.device) + shift.index_select(0, index)
    return positions, index, lengths


def segment_sum(values: Tensor, segments: Tensor, n_segments: int) -> Tensor:
    """Sums the rows of each segment: values [n, F], segments [n] → [n_segments, F]."""
    return values.new_zeros([n_segments, values.shape[1]]).index_add_(0, segments, values)


def sum_by_key(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums values by key. Returns the distinct keys [U] in rising order, and the sums.

    The sums are [U] for values [n], and [U, F] for values [n, F].
    """
    sorted_keys, order = keys.sort(stable=True)
    is_first = starts_of_runs(sorted_keys)
    unique = sorted_keys[is_first]  # a sort takes half the time of torch.unique with its inverse
    shape = [unique.numel()] + list(values.shape[1:])
    position = is_first.cumsum(0) - 1
    return unique, values.new_zeros(shape).index_add_(0, position, values.index_select(0, order))


def starts_of_runs(values: Tensor) -> Tensor:
    """Whether a value differs from the value before it: [n] bool."""
    is_first = torch.ones_like(values, dtype=torch.bool)
    is_first[1:] = values[1:] != values[:-1]
    return is_first


def lookup(unique: Tensor, table: Tensor, keys: Tensor) -> Tensor:
    """Looks up `keys` [n] in sorted `unique` [U]. Returns their values of `table`, zeros for no match.

    The result is [n] for a table [U], and [n, F] for a table [U, F].
    """
    if unique.numel() == 0:
        return table.new_zeros([keys.numel()] + list(table.shape[1:]))
    position = torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)
    match = unique.index_select(0, position) == keys
    return table.index_select(0, position) * (match if table.dim() == 1 else match.unsqueeze(1))


def contains(unique: Tensor, keys: Tensor) -> Tensor:
    """Whether a key of `keys` [n] is in sorted `unique` [U]: [n] bool."""
    if unique.numel() == 0:
        return torch.zeros_like(keys, dtype=torch.bool)
    return unique.index_select(0, torch.searchsorted(unique, keys).clamp_max(unique.numel() - 1)) == keys


def rank_in_segment(segments: Tensor, score: Tensor) -> Tensor:
    """Ranks values by falling score inside their segment, 0 first; ties by position: [n] int64."""
    order, _, sorted_rank = sort_by_segment_and_score(segments, score)
    rank = torch.empty_like(order)
    rank[order] = sorted_rank
    return rank


def top_k_in_segment(segments: Tensor, score: Tensor, limit: int, n_segments: int = 0) -> Tensor:
    """Returns rising positions of the `limit` highest scores of each segment. The first of equal scores win.

    `n_segments` is 0 if the number is unknown. A single segment is not sorted by segment.
    """
    if n_segments == 1:
        return torch.argsort(score, descending=True, stable=True)[:limit].sort()[0]
    order, _, rank = sort_by_segment_and_score(segments, score)
    return order.index_select(0, (rank < limit).nonzero().squeeze(1)).sort()[0]


def sort_by_segment_and_score(segments: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sorts values by segment and falling score, ties by position.

    Returns the positions [n], the segments in that order [n], and the rank of each value in its segment [n].
    """
    by_score = torch.argsort(score, descending=True, stable=True)
    sorted_segments, by_segment = segments.index_select(0, by_score).sort(stable=True)
    order = by_score.index_select(0, by_segment)
    position = torch.arange(order.numel(), device=order.device)
    start = position.masked_fill(~starts_of_runs(sorted_segments), 0)
    if start.numel() > 0:
        start = start.cummax(0)[0]
    return order, sorted_segments, position - start
