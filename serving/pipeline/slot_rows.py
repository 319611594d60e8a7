"""The item rows of a slate that is being built: distinct, eligible, and within all limits."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from .slate_policy import SLOTS
from .slot_limits import SlotLimits

MAX_WAITING = 1000  # rows of a tier that a limit keeps out; behind them the tier is not searched


class SlotRows:
    """Collects item rows for SLOTS slots, from the best tier to the last.

    Args:
        eligible: [N+1] bool.
        product: [N+1] codes, 0 for an item that is its only pack.
        product_cap: maximum number of items of one product; None for any number.
        limits: limits of rules, in which pins already have their slots; None for no limits.

    Attributes:
        tiers: row → the tier that it comes from, in the order of the open slots.
        floors: row → the floors that gave it its slot.
    """

    def __init__(
        self,
        eligible: NDArray[np.bool_],
        product: NDArray[np.integer],
        product_cap: int | None,
        limits: SlotLimits | None = None,
    ) -> None:
        self.eligible, self.product, self.product_cap, self.limits = eligible, product, product_cap, limits
        self.tiers: dict[int, str] = {}
        self.floors: dict[int, tuple[str, ...]] = {}
        self._pinned = [] if limits is None else limits.pinned_rows
        self._n_open = SLOTS - len(self._pinned)
        self._waiting: dict[int, str] = {}  # rows that a limit keeps out, and their tiers
        self._count: Counter[int] = Counter(map(int, product[self._pinned]))  # of each product

    def is_full(self) -> bool:
        return len(self.tiers) == self._n_open

    def add(self, row: int, tier: str, is_capped: bool = True) -> bool:
        """Add a row if it is eligible and new. Returns whether the row has a slot.

        A row that the rules reject is put on the waiting list. With `is_capped`, so is a row above the
        product cap.
        """
        if self.is_full() or row in self.tiers or row in self._pinned or not self.eligible[row]:
            return False
        code = int(self.product[row])
        is_above = (
            is_capped and code and self.product_cap is not None and self._count[code] >= self.product_cap
        )
        if is_above or (self.limits is not None and not self.limits.accepts(row)):
            self._waiting.setdefault(row, tier)
            return False
        self._count[code] += 1
        self.tiers[row] = tier
        if self.limits is not None and (floors := self.limits.add(row)):
            self.floors[row] = floors
        return True

    def add_all(self, rows: Iterable[int], tier: str, is_capped: bool = True) -> None:
        """Add rows until all slots are taken or MAX_WAITING rows wait.

        Also stops when floors need every remaining slot.
        """
        limit, was_forced = len(self._waiting) + MAX_WAITING, self.is_forced()
        for row in rows:
            if self.is_full() or len(self._waiting) >= limit or self.is_forced() > was_forced:
                return
            self.add(row, tier, is_capped)

    def is_forced(self) -> bool:
        """Whether floors need every remaining slot."""
        return self.limits is not None and self.limits.is_forced()

    def add_waiting(self) -> None:
        """Give empty slots to the waiting rows in order of arrival; the product cap no longer applies."""
        for row, tier in self._waiting.items():
            self.add(row, tier, is_capped=False)

    def in_order(self) -> list[int]:
        """Returns all rows in the order of the slots.

        If slots are empty, pinned items move up as little as needed.
        """
        if self.limits is None:
            return [*self.tiers]
        rows = [*self.tiers]
        for slot, pin in sorted(self.limits.pins.items()):
            rows.insert(slot - 1, pin.row)
        return rows
