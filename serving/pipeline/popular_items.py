"""Popularity lists, made at export: what is shown when nothing better can answer in time."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from numpy.typing import NDArray

INITIAL_BLOCK_SIZE = 64  # items of which six are looked for at first


class PopularityFallback:
    """Available items by falling popularity, over all and by leaf category.

    Args:
        rank: [N+1] rank by popularity among the available items, -1 for the others.
        leaf: [N+1] leaf category codes, 0 for unknown.
        everything: [n] the available items by rank.
        by_leaf: [n] the same by leaf, and within one by rank.
    """

    def __init__(self, rank: NDArray, leaf: NDArray, all_items: NDArray, by_leaf: NDArray) -> None:
        self.rank, self.leaf, self.all_items, self.by_leaf = rank, leaf, all_items, by_leaf

    def iter_popular(self, allowed: NDArray) -> Iterator[int]:
        """The item rows of `allowed` [N+1] bool, by falling popularity."""
        start, count = 0, INITIAL_BLOCK_SIZE
        while start < len(self.all_items):
            rows = self.all_items[start : start + count]
            yield from rows[allowed[rows]].tolist()
            start, count = start + count, 2 * count  # few are left under a filter: soon all are looked at

    def leaf_bestsellers(self, leaf: int) -> NDArray:
        """Item rows of a leaf category; none for the unknown one."""
        if leaf <= 0:
            return self.by_leaf[:0]
        first, behind = (side(self.by_leaf, leaf, key=self.leaf.item) for side in (bisect_left, bisect_right))
        return self.by_leaf[first:behind]

    def iter_category_bestsellers(self, rows: Iterable[int]) -> Iterator[int]:
        """Bestsellers of the leaf categories of `rows`: the first of each, then the second of each, ..."""
        lists = [self.leaf_bestsellers(leaf) for leaf in dict.fromkeys(int(self.leaf[row]) for row in rows)]
        for place in range(max(map(len, lists), default=0)):
            for items in lists:
                if place < len(items):
                    yield int(items[place])
