"""The last ranked slate of each user, for requests that no model answers in time.

Such a request does not read the store, so this cache counts how often each item may still be shown.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..checkout import Checkout
from .frequency import FrequencyCap, ImpressionCount
from .rank import RankedItems
from .state_cache import LRUCache, digest_text

LAST_SLATE_BYTES = 300  # of a LastSlate beside its items


class LastSlate(NamedTuple):
    """The last slate of a user, for the tier `cached`."""

    items: RankedItems
    order: bytes | None  # digest of the order's id
    # By position, how often each may still be shown; -1: this order left it out. None: any number.
    times_left: tuple[int, ...] | None


class LastSlateCache:
    """The last slates of recent users. Safe to share between threads.

    Args:
        size, max_bytes: limits, as in LRUCache.
    """

    def __init__(self, size: int, max_bytes: int) -> None:
        self._slates: LRUCache[LastSlate] = LRUCache(
            size, max_bytes, _estimate_bytes
        )  # by digest of the user

    def __len__(self) -> int:
        return len(self._slates)

    def clear(self) -> None:
        """Forget all slates."""
        self._slates.clear()

    def put(
        self,
        checkout: Checkout,
        items: RankedItems,
        item_ids: Sequence[str],
        cap: FrequencyCap | None,
        counts: Mapping[str, ImpressionCount],
    ) -> None:
        """Remember the slate of a checkout; slates of guests are not remembered.

        Args:
            item_ids: ids of `items`, by position.
            counts: counts of the user's earlier impressions, by item id.
        """
        if checkout.user_id is None:
            return
        times_left = None
        if cap is not None:
            n_earlier = (counts[item].n_orders if item in counts else 0 for item in item_ids)
            times_left = tuple(max(0, cap.times - n_orders - 1) for n_orders in n_earlier)
        last = LastSlate(items._replace(tier="cached"), _order_digest(checkout), times_left)
        self._slates.put(digest_text(checkout.user_id), last)

    def show(self, checkout: Checkout) -> tuple[RankedItems | None, list[int]]:
        """Returns the user's last slate, and the rows of its items that were shown too often.

        The slate counts as shown once more, unless it belongs to the same order. None without a last slate.
        """
        user = None if checkout.user_id is None else digest_text(checkout.user_id)
        last = None if user is None else self._slates.get(user)
        if last is None:
            return None, []
        if last.times_left is None:
            return last.items, []
        times_left = last.times_left
        order = _order_digest(checkout)
        if last.order is None or last.order != order:
            times_left = tuple(n - 1 if n > 0 else -1 for n in times_left)
            self._slates.put(user, LastSlate(last.items, order, times_left))
        capped = [row for row, n in zip(last.items.item_row, times_left, strict=True) if n < 0]
        return last.items, capped


def _order_digest(checkout: Checkout) -> bytes | None:
    return None if checkout.order_id is None else digest_text(checkout.order_id)


def _estimate_bytes(last: LastSlate) -> int:
    return last.items.estimate_bytes() + LAST_SLATE_BYTES
