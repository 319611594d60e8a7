"""Popularity lists, made at load: what is shown when nothing better can answer in time."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


class Popular:
    """Available items by falling popularity, over all and by leaf category.

    Args:
        rank: [N+1] rank by popularity among the available items, -1 for the others.
        leaf: [N+1] leaf category codes, 0 for unknown.
    """

    def __init__(self, rank: NDArray, leaf: NDArray) -> None:
        self.rank = rank
        available = np.flatnonzero(rank >= 0)
        self.everything = available[np.argsort(rank[available], kind="stable")].tolist()
        self.leaf = leaf
        ordered = np.asarray(self.everything, dtype=np.int64)
        ordered = ordered[np.argsort(leaf[ordered], kind="stable")]
        self._items = ordered.tolist()
        self._offsets = np.searchsorted(leaf[ordered], np.arange(int(leaf.max(initial=0)) + 2))

    def among(self, allowed: NDArray) -> list[int]:
        """The item rows of `allowed` [N+1] bool, by falling popularity."""
        rows = np.flatnonzero(allowed & (self.rank >= 0))
        return rows[np.argsort(self.rank[rows], kind="stable")].tolist()

    def of_category(self, leaf: int) -> list[int]:
        """Item rows of a leaf category; none for the unknown one."""
        return self._items[self._offsets[leaf] : self._offsets[leaf + 1]] if leaf > 0 else []

    def like(self, rows: Iterable[int]) -> Iterator[int]:
        """Bestsellers of the leaf categories of `rows`: the first of each, then the second of each, ..."""
        lists = [self.of_category(leaf) for leaf in dict.fromkeys(int(self.leaf[row]) for row in rows)]
        for place in range(max(map(len, lists), default=0)):
            for items in lists:
                if place < len(items):
                    yield items[place]
