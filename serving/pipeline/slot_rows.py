"""The item rows of a slate in the making: distinct, eligible, and few of one product."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .slate_policy import SLOTS

MAX_WAITING = 1000  # rows of a tier above the product cap; behind them the tier is not searched


class SlotRows:
    """Item rows for SLOTS slots, added from the best tier to the last.

    Args:
        eligible: [N+1] bool.
        product: [N+1] codes, 0 for an item that is its only pack.
        product_cap: most items of one product; None for any number.

    Attributes:
        tiers: row → the tier that it comes from, in the order of the slots.
    """

    def __init__(
        self, eligible: NDArray[np.bool_], product: NDArray[np.integer], product_cap: int | None
    ) -> None:
        self.eligible, self.product, self.product_cap = eligible, product, product_cap
        self.tiers: dict[int, str] = {}
        self._waiting: dict[int, str] = {}  # rows above the cap and their tiers
        self._count: Counter[int] = Counter()  # of each product

    def is_full(self) -> bool:
        return len(self.tiers) == SLOTS

    def add(self, row: int, tier: str, is_capped: bool = True) -> bool:
        """Add a row, if it is eligible and new; returns whether it has a slot.

        With `is_capped` a row above the cap waits.
        """
        if self.is_full() or row in self.tiers or not self.eligible[row]:
            return False
        code = int(self.product[row])
        if is_capped and code and self.product_cap is not None and self._count[code] >= self.product_cap:
            self._waiting.setdefault(row, tier)
            return False
        self._count[code] += 1
        self.tiers[row] = tier
        return True

    def add_all(self, rows: Iterable[int], tier: str) -> None:
        """Add rows until all slots are taken or MAX_WAITING of them wait."""
        limit = len(self._waiting) + MAX_WAITING
        for row in rows:
            if self.is_full() or len(self._waiting) >= limit:
                return
            self.add(row, tier)

    def add_waiting(self) -> None:
        """Give empty slots to the rows that wait, first come, first served."""
        for row, tier in self._waiting.items():
            self.add(row, tier, is_capped=False)
