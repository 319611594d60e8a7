"""The slots of a slate under the rules of the shop: pins, caps and floors.

Pinned items keep their slots; the other slots are open. Caps and floors count pinned items too. If not all
limits can hold, they are lifted in this order: the policy's category cap, the policy's product cap, floors of
rules, caps of rules. No other limit is lifted.
"""

import numpy as np
from numpy.typing import NDArray

from .rules.compiled import Pin, RulesInForce
from .slate_policy import SLOTS

# Above the sum of the penalties of selection.py, so that caps of the policy give way before rules.
FLOOR_PENALTY, CAP_PENALTY = 1.6e7, 3.2e7


class SlotLimits:
    """The limits that the open slots of a slate must obey.

    Args:
        rules: the rules in force.
        eligible: [N+1] bool.

    Attributes:
        pins: slot → the pin in this slot.
        pinned_rows: item rows of the pins, in the order of the slots.
        n_open: slots without a pin.
    """

    def __init__(self, rules: RulesInForce, eligible: NDArray[np.bool_]) -> None:
        self.rules, self.eligible = rules, eligible
        self.pins = _take_slots(rules.pins, eligible)
        self.pinned_rows = [pin.row for pin in self.pins.values()]
        self.n_open = self._n_left = SLOTS - len(self.pins)
        pinned = self.pinned_rows
        self._room = [cap.number - int(cap.mask[pinned].sum()) for cap in rules.caps]
        self._supply = [self._floor_supply(k) for k in range(len(rules.floors))]
        self._missing = [len(rows) for rows in self._supply]  # items that each floor lacks and can get

    def _floor_supply(self, k: int) -> list[int]:
        """The eligible items that a floor needs besides the pinned items, by falling popularity."""
        floor = self.rules.floors[k]
        n_missing = floor.number - int(floor.mask[self.pinned_rows].sum())
        rows: list[int] = []
        start, size = 0, 64
        while len(rows) < n_missing and start < len(floor.by_popularity):
            block = floor.by_popularity[start : start + size]
            rows += [row for row in block[self.eligible[block]].tolist() if row not in self.pinned_rows]
            start, size = start + size, 2 * size
        return rows[: max(0, n_missing)]

    def is_forced(self) -> bool:
        """Whether floors need every remaining open slot."""
        n_missing = sum(self._missing)
        return n_missing > 0 and n_missing >= self._n_left

    def supply(self) -> list[int]:
        """Popular items for the floors that are not reached yet."""
        rows = (rows for rows, missing in zip(self._supply, self._missing, strict=True) if missing)
        return list(dict.fromkeys(row for floor_rows in rows for row in floor_rows))

    def accepts(self, row: int) -> bool:
        """Whether the next open slot may show an item under all caps and floors."""
        for cap, room in zip(self.rules.caps, self._room, strict=True):
            if room <= 0 and cap.mask[row]:
                return False
        return not self.is_forced() or self._helps(row)

    def _helps(self, row: int) -> bool:
        pairs = zip(self.rules.floors, self._missing, strict=True)
        return any(missing > 0 and floor.mask[row] for floor, missing in pairs)

    def accepts_rows(self, rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Whether the next open slot may show each of the item rows, of any shape: bool of the same shape."""
        is_accepted: NDArray[np.bool_] = self.penalties(rows) == 0
        return is_accepted

    def penalties(self, rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """The penalty on the utility of item rows of any shape; 0 for accepted rows."""
        penalty = np.zeros(np.shape(rows))
        for cap, room in zip(self.rules.caps, self._room, strict=True):
            if room <= 0:
                penalty += CAP_PENALTY * cap.mask[rows]
        if self.is_forced():
            helps = np.zeros(np.shape(rows), np.bool_)
            for floor, missing in zip(self.rules.floors, self._missing, strict=True):
                if missing > 0:
                    helps |= floor.mask[rows]
            penalty += FLOOR_PENALTY * ~helps
        return penalty

    def add(self, row: int) -> tuple[str, ...]:
        """Give the next open slot to an item; returns the floors that gave it the slot."""
        is_forced = self.is_forced()
        self._n_left -= 1
        for k, cap in enumerate(self.rules.caps):
            self._room[k] -= bool(cap.mask[row])
        served = []
        for k, floor in enumerate(self.rules.floors):
            if self._missing[k] > 0 and floor.mask[row]:
                self._missing[k] -= 1
                served.append(floor.rule)
        return tuple(served) if is_forced else ()

    def drop_floors(self) -> None:
        """Lift the floors."""
        self._missing = [0] * len(self._missing)

    def drop_caps(self) -> None:
        """Lift the caps."""
        self._room = [SLOTS + 1] * len(self._room)


def rule_limits(rules: RulesInForce | None, eligible: NDArray[np.bool_]) -> SlotLimits | None:
    """The limits of the rules in force; None if no rule is a pin, cap or floor."""
    return None if rules is None or not rules.fills_slots else SlotLimits(rules, eligible)


def _take_slots(pins: tuple[Pin, ...], eligible: NDArray[np.bool_]) -> dict[int, Pin]:
    """Returns slot → the pin in force. The items are eligible, and no slot or item occurs twice."""
    taken: dict[int, Pin] = {}
    rows: set[int] = set()
    for pin in pins:
        if pin.row and pin.slot not in taken and pin.row not in rows and eligible[pin.row]:
            taken[pin.slot] = pin
            rows.add(pin.row)
    return taken
