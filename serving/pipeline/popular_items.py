"""Popularity lists from the export, shown if no model answers in time."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from heapq import merge

import numpy as np
from numpy.typing import NDArray

INITIAL_BLOCK_SIZE = 64  # items of the first look for six eligible ones

Accepts = Callable[[NDArray[np.int32]], NDArray[np.bool_]]


class PopularityFallback:
    """Lists the available items by falling popularity, over all categories and for each leaf category.

    Items that were unavailable at export and became available later are merged into the lists by their number
    of orders.

    Args:
        rank: [N+1] popularity rank among the available items, -1 for the others.
        leaf: [N+1] leaf category codes, 0 for unknown.
        all_items: [n] rows of the available items, by rank.
        by_leaf: [n] the same rows by leaf category, then by rank.
        orders: [N+1] numbers of orders, by which the lists are sorted; equal numbers are sorted by row.
    """

    def __init__(
        self,
        rank: NDArray[np.int32],
        leaf: NDArray[np.int64],
        all_items: NDArray[np.int32],
        by_leaf: NDArray[np.int32],
        orders: NDArray[np.float32],
    ) -> None:
        self.rank, self.leaf, self.all_items, self.by_leaf = rank, leaf, all_items, by_leaf
        self.orders = orders
        self._returned = all_items[:0]  # by falling orders

    def set_returned(self, rows: NDArray[np.int32]) -> None:
        """Merge these rows, in any order, into the lists; they replace the rows of an earlier call."""
        self._returned = rows[np.lexsort([rows, -self.orders[rows]])]

    def _popularity(self, row: int) -> tuple[float, int]:
        return -self.orders.item(row), row

    def iter_popular(self, eligible: NDArray[np.bool_], accepts: Accepts | None = None) -> Iterator[int]:
        """The rows of `eligible` [N+1], by falling popularity.

        `accepts` gets a block of rows [n] and returns which of these rows are allowed.
        """
        listed = self._iter_listed(eligible, accepts)
        if not len(self._returned):
            return listed
        returned = self._returned[eligible[self._returned]]
        returned = returned if accepts is None else returned[accepts(returned)]
        return merge(listed, returned.tolist(), key=self._popularity)

    def _iter_listed(self, eligible: NDArray[np.bool_], accepts: Accepts | None) -> Iterator[int]:
        start, count = 0, INITIAL_BLOCK_SIZE
        while start < len(self.all_items):
            rows = self.all_items[start : start + count]
            rows = rows[eligible[rows]]
            yield from (rows if accepts is None else rows[accepts(rows)]).tolist()
            start, count = start + count, 2 * count  # a strict filter needs few, larger blocks

    def leaf_bestsellers(self, leaf: int) -> NDArray[np.int32]:
        """The rows of a leaf category, by falling popularity; none for the unknown category."""
        if leaf <= 0:
            return self.by_leaf[:0]
        start, end = (
            bisect(self.by_leaf, leaf, key=self.leaf.item) for bisect in (bisect_left, bisect_right)
        )
        rows, returned = self.by_leaf[start:end], self._returned
        if not len(returned) or not len(returned := returned[self.leaf[returned] == leaf]):
            return rows
        rows = np.concatenate([rows, returned])
        return rows[np.lexsort([rows, -self.orders[rows]])]

    def iter_category_bestsellers(self, rows: Iterable[int]) -> Iterator[int]:
        """Yields the bestsellers of the leaf categories of `rows`.

        The first of each category come first, then the second of each, and so on.
        """
        lists = [self.leaf_bestsellers(leaf) for leaf in dict.fromkeys(int(self.leaf[row]) for row in rows)]
        for position in range(max(map(len, lists), default=0)):
            for bestsellers in lists:
                if position < len(bestsellers):
                    yield int(bestsellers[position])
