"""Frequency cap: an item that was shown often enough and drew no response makes room for another.

    earlier slates ─ within the window ─ since the item's last click, cart or purchase ─▶ capped items

Advertising caps impressions by user and time in the same way (Buchbinder et al., "Frequency capping in online
advertising", WADS 2011, section 1). Here an order counts once, however often its page is loaded.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout
from ..stores.base import UserHistory
from ..stores.impressions import ShownSlate
from .exclusion import duration_seconds

MAX_TIMES = 1000  # more than a store remembers


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """How often an item may be shown without a response. Raises ValueError for a value out of range.

    Args:
        times: slates of one user that may show the item.
        window: the time before the checkout in which they count, as "14d".
    """

    times: int
    window: str = "14d"

    def __post_init__(self) -> None:
        is_number = isinstance(self.times, int) and not isinstance(self.times, bool)
        if not is_number or not 1 <= self.times <= MAX_TIMES:
            raise ValueError(
                f"slate.frequency_cap.times is {self.times!r}: expected a whole number from 1 to {MAX_TIMES}"
            )
        duration_seconds(self.window, "slate.frequency_cap.window")

    @property
    def window_seconds(self) -> int:
        return duration_seconds(self.window, "slate.frequency_cap.window")


def read_frequency_cap(settings: object) -> FrequencyCap | None:
    """The cap of `slate.frequency_cap`: {times, window}, a FrequencyCap or None. Raises ValueError."""
    if settings is None or isinstance(settings, FrequencyCap):
        return settings
    if (
        not isinstance(settings, dict)
        or "times" not in settings
        or not settings.keys() <= {"times", "window"}
    ):
        raise ValueError(f"slate.frequency_cap is {settings!r}: expected {{times, window}} or null")
    return FrequencyCap(**settings)


def capped_items(cap: FrequencyCap, checkout: Checkout, history: UserHistory, ts: int) -> list[str]:
    """Ids of the items that a checkout's slate leaves out, those that give way first at the front.

    These are the least shown, and of equally often shown ones those that were shown longest ago. Slates since
    this order's own first one do not count: an order asked for again has the same slate.

    Args:
        history: of the user, with the impressions.
        ts: Unix seconds (UTC) of the checkout.
    """
    start = ts - cap.window_seconds
    slates = [
        slate
        for slate in takewhile(lambda slate: slate.order_key != checkout.order_id, history.impressions)
        if slate.ts > start
    ]
    if len(slates) < cap.times:
        return []
    return items_at_cap(cap, slates, _responses(checkout, history, start, ts))


def items_at_cap(
    cap: FrequencyCap, slates: Sequence[ShownSlate], responses: Iterable[tuple[str, int]]
) -> list[str]:
    """Items that `cap.times` of the slates show since their last response, in the order of `capped_items`.

    Args:
        slates: of one user, within the window, in order of arrival.
        responses: item and Unix seconds of the user's clicks, carts and purchases; read only if needed.
    """
    shown_at: dict[str, dict[str, int]] = {}  # item → order key → ts
    for slate in slates:
        for item in slate.item_ids:
            shown_at.setdefault(item, {}).setdefault(slate.order_key, slate.ts)
    at_cap = {item: [*times.values()] for item, times in shown_at.items() if len(times) >= cap.times}
    if at_cap:
        for item, response_ts in responses:
            if item in at_cap:
                at_cap[item] = [ts for ts in at_cap[item] if ts > response_ts]
    remaining = {item: times for item, times in at_cap.items() if len(times) >= cap.times}
    return sorted(remaining, key=lambda item: (len(remaining[item]), remaining[item][-1]))


def lift_cap(rows: Sequence[int], eligible: NDArray[np.bool_], n_slots: int) -> list[int]:
    """The capped rows that stay out, so that `n_slots` items stay eligible where there are as many.

    Args:
        rows: item rows by `capped_items`; those that give way first are at the front.
        eligible: [N+1] bool, without the cap.
    """
    capped = [row for row in rows if eligible[row]]
    if not capped:
        return capped
    n_missing = n_slots - (int(np.count_nonzero(eligible)) - len(capped))
    return capped[max(0, n_missing) :]


def _responses(checkout: Checkout, history: UserHistory, start: int, ts: int) -> Iterable[tuple[str, int]]:
    """Item and time of the user's events after `start`, and of the lines just paid."""
    for line in checkout.basket:
        yield line.item_id, ts
    if checkout.history is not None:
        yield from ((event.item_id, event.ts) for event in checkout.history if event.ts > start)
        return
    for k in np.flatnonzero(history.ts > start).tolist():
        yield history.item_id[k], int(history.ts[k])
