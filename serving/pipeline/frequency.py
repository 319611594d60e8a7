"""Frequency cap: an item that was shown often without a response makes room for another item.

    earlier slates ─ within the window ─ since the item's last click, cart or purchase ─▶ capped items

Advertising caps impressions by user and time in the same way (Buchbinder et al., "Frequency capping in online
advertising", WADS 2011, section 1). Here an order counts once, even if its page is loaded several times.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..checkout import Checkout
from ..stores.base import UserHistory
from ..stores.impressions import ShownSlate, viewed_order_keys
from .exclusion import duration_seconds

MAX_TIMES = 1000  # more than a store remembers


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """Limits how often an item is shown to a user without a response.

    Raises ValueError for a value out of range.

    Args:
        times: maximum number of a user's slates that show the item.
        window: the time before the checkout in which slates count, such as "14d".
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


class ImpressionCount(NamedTuple):
    """The number and last time of a user's impressions of an item since the last response."""

    n_orders: int
    last_ts: int  # Unix seconds (UTC)


def count_impressions(
    cap: FrequencyCap | None, checkout: Checkout, history: UserHistory, ts: int, viewed_only: bool = False
) -> dict[str, ImpressionCount]:
    """The impressions of a user within the cap's window, by item; none without a cap.

    Slates since the first slate of the same order are ignored. So a repeated request for the order gets the
    same slate.

    Args:
        history: the user's history, with the impressions.
        ts: Unix seconds (UTC) of the checkout.
        viewed_only: count only slates that were reported as viewed.
    """
    if cap is None or not history.impressions:
        return {}
    start = ts - cap.window_seconds
    earlier = takewhile(lambda slate: slate.order_key != checkout.order_id, history.impressions)
    slates = [slate for slate in earlier if slate.ts > start]
    if viewed_only:
        viewed = viewed_order_keys(history.impressions)
        slates = [slate for slate in slates if slate.order_key in viewed]
    if not slates:
        return {}
    return count_by_item(slates, _last_responses(checkout, history, start, ts))


def count_by_item(
    slates: Sequence[ShownSlate], last_responses: Mapping[str, int]
) -> dict[str, ImpressionCount]:
    """Returns item → its impressions after its last response.

    `slates` are those of one user, in order of arrival.

    `last_responses` maps items to the time of their last response.
    """
    n_slates = Counter(slate.order_key for slate in slates)
    n_orders: dict[str, int] = {}
    last_ts: dict[str, int] = {}
    counted: set[tuple[str, str]] = set()  # order and item, of orders with several slates
    for order_key, ts, item_ids in slates:
        for item in item_ids:
            if last_responses and ts <= last_responses.get(item, -1):
                continue
            if n_slates[order_key] > 1:
                if (order_key, item) in counted:
                    continue
                counted.add((order_key, item))
            n_orders[item] = n_orders.get(item, 0) + 1
            last_ts[item] = ts
    return {item: ImpressionCount(n, last_ts[item]) for item, n in n_orders.items()}


def capped_items(cap: FrequencyCap, counts: Mapping[str, ImpressionCount]) -> list[str]:
    """The items that the cap removes, in the order in which the cap is lifted for them.

    The least shown item comes first; among equals, the item shown longest ago.
    """
    capped = [item for item, count in counts.items() if count.n_orders >= cap.times]
    return sorted(capped, key=counts.__getitem__)


def lift_cap(rows: Sequence[int], eligible: NDArray[np.bool_], n_slots: int) -> list[int]:
    """The capped rows that are still removed when `n_slots` items must stay eligible.

    Args:
        rows: item rows of `capped_items`, in the order in which the cap is lifted.
        eligible: [N+1] bool, without the cap.
    """
    capped = [row for row in rows if eligible[row]]
    if not capped:
        return capped
    n_missing = n_slots - (int(np.count_nonzero(eligible)) - len(capped))
    return capped[max(0, n_missing) :]


def _last_responses(checkout: Checkout, history: UserHistory, start: int, ts: int) -> dict[str, int]:
    """Returns item → time of the user's last event after `start`. The lines just paid count as events."""
    if checkout.history is None:
        recent = np.flatnonzero(history.ts > start).tolist()
        responses = [(history.item_id[k], int(history.ts[k])) for k in recent]
    else:
        responses = [(event.item_id, event.ts) for event in checkout.history if event.ts > start]
    last_responses = dict(sorted(responses, key=itemgetter(1)))
    return last_responses | {line.item_id: ts for line in checkout.basket}
