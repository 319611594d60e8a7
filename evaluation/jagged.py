"""Jagged arrays in numpy: `offsets` [n+1] bound the values of each row in a flat array.

    offsets = [0, 2, 2, 5]      three rows, the second empty
    values  = [7, 3,    9, 9, 4]

An evaluation touches millions of (checkout, item) pairs. A Python loop over checkouts would take longer than
the model, so all functions are vectorized over rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

Array = np.ndarray
# A NamedTuple of arrays: `offsets` first, then flat arrays of one length.
Jagged = TypeVar("Jagged", bound=tuple[Any, ...])


class RankedLists(NamedTuple):
    """The scored candidates of n checkouts, in any order inside a checkout."""

    offsets: Array  # [n+1] int64
    item: Array  # [ΣC] int64 item rows >= 1, distinct within a checkout
    score: Array  # [ΣC] float, higher is better; ties keep the given order


def segment_ids(offsets: Array) -> Array:
    """Return the row [Σ] int64 of every flat value, from offsets [n+1]."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))


def to_offsets(lengths: Array) -> Array:
    """Return the offsets [n+1] int64 of rows with these lengths [n]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def concat_ranges(starts: Array, lengths: Array) -> Array:
    """Concatenate the ranges starts[i] .. starts[i] + lengths[i] - 1 for i = 0, 1, …: [Σ lengths]."""
    offsets = to_offsets(lengths)
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)


def mask_offsets(offsets: Array, mask: Array) -> Array:
    """Return the offsets [n+1] that remain if only `values[mask]` are kept; `mask` is [Σ] bool."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(mask, dtype=np.int64)])[offsets]


def mask_jagged(jagged: Jagged, mask: Array) -> Jagged:
    """Keep the values where `mask` [Σ] bool is set, in the same rows."""
    offsets, *fields = jagged
    return type(jagged)(*(mask_offsets(offsets, mask), *(field[mask] for field in fields)))


def concat_jagged(parts: Sequence[Jagged]) -> Jagged:
    """Concatenate the rows of all parts to one jagged array, in the order of the parts."""
    lengths = np.concatenate([np.diff(part[0]) for part in parts])
    fields = (np.concatenate(field) for field in list(zip(*parts, strict=True))[1:])
    return type(parts[0])(*(to_offsets(lengths), *fields))


def find_sorted(sorted_keys: Array, keys: Array) -> Array:
    """Return the position [m] int64 of each key [m] in `sorted_keys` [s].

    `sorted_keys` are ascending and distinct. A key that is not in `sorted_keys` has -1.
    """
    if not len(sorted_keys):
        return np.full(len(keys), -1, np.int64)
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[position] == keys, position, -1)


def group_sum(row: Array, item: Array, weight: Array, n: int) -> RankedLists:
    """Sum the weights of equal items in each of n rows; return lists of distinct items, ascending.

    `row`, `item` and `weight` are [m].
    """
    stride = int(item.max(initial=0)) + 1
    key = row * stride + item
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    score = np.add.reduceat(weight[order], first) if len(first) else np.zeros(0)
    pairs = key[first]
    return RankedLists(to_offsets(np.bincount(pairs // stride, minlength=n)), pairs % stride, score)


def sort_descending(ranked: RankedLists) -> RankedLists:
    """Sort each list, best first; equal scores keep the given order.

    Raises ValueError for a NaN score, which would silently sort last.
    """
    if np.isnan(ranked.score).any():
        raise ValueError(f"{int(np.isnan(ranked.score).sum())} candidates have the score NaN")
    order = np.lexsort((-ranked.score, segment_ids(ranked.offsets)))
    return RankedLists(ranked.offsets, ranked.item[order], ranked.score[order])


def top_k(ranked: RankedLists, k: int = 6, eligible: Array | None = None) -> Array:
    """Return the first k eligible items of each list: [n, k] int64, -1 for an empty slot.

    The lists must be sorted, best item first. `eligible` is [ΣC] bool; None allows all items.
    """
    n = len(ranked.offsets) - 1
    offsets, item = ranked.offsets, ranked.item
    if eligible is not None:
        offsets, item = mask_offsets(offsets, eligible), item[eligible]
    lengths = np.minimum(np.diff(offsets), k)
    slates = np.full((n, k), -1, np.int64)
    slates[np.arange(k) < lengths[:, None]] = item[concat_ranges(offsets[:-1], lengths)]
    return slates
