"""The last ranked slate of each user, for requests that no model answers in time.

Such a request does not read the store, so this cache counts how often each item may still be shown.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..checkout import Checkout
from .frequency import FrequencyCap, ImpressionCount
from .rank import RankedItems
from .state_cache import LRUCache


class LastSlate(NamedTuple):
    """What a user was shown last, with tier `cached`."""

    items: RankedItems
    order_id: str | None
    # By position, how often each may still be shown; -1: this order left it out. None: any number.
    times_left: tuple[int, ...] | None


class LastSlateCache:
    """The last slates of the `size` users that were answered last. Safe to share between threads."""

    def __init__(self, size: int) -> None:
        self._slates: LRUCache[LastSlate] = LRUCache(size)  # by user

    def __len__(self) -> int:
        return len(self._slates)

    def discard(self, is_discarded: Callable[[str], bool]) -> None:
        """Forget the slates of some users."""
        self._slates.discard(is_discarded)

    def put(
        self,
        checkout: Checkout,
        items: RankedItems,
        item_ids: Sequence[str],
        cap: FrequencyCap | None,
        counts: Mapping[str, ImpressionCount],
    ) -> None:
        """Remember the slate of a checkout; guests have none.

        Args:
            item_ids: of `items`, by position.
            counts: of the user's earlier impressions, by item id.
        """
        if checkout.user_id is None:
            return
        times_left = None
        if cap is not None:
            n_earlier = (counts[item].n_orders if item in counts else 0 for item in item_ids)
            times_left = tuple(max(0, cap.times - n_orders - 1) for n_orders in n_earlier)
        self._slates.put(
            checkout.user_id, LastSlate(items._replace(tier="cached"), checkout.order_id, times_left)
        )

    def show(self, checkout: Checkout) -> tuple[RankedItems | None, list[int]]:
        """The last slate of the user, and the rows of its items that were shown too often.

        It counts as shown once more, unless it is that of the same order. None without a last slate.
        """
        last = None if checkout.user_id is None else self._slates.get(checkout.user_id)
        if last is None:
            return None, []
        if last.times_left is None:
            return last.items, []
        times_left = last.times_left
        if last.order_id is None or last.order_id != checkout.order_id:
            times_left = tuple(n - 1 if n > 0 else -1 for n in times_left)
            self._slates.put(checkout.user_id, LastSlate(last.items, checkout.order_id, times_left))
        capped = [row for row, n in zip(last.items.item_row, times_left, strict=True) if n < 0]
        return last.items, capped
