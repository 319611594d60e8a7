"""The slates that a user was shown, stored for the frequency cap (serving/pipeline/frequency.py).

A store keeps the newest MAX_SLATES of a user apart from the history, one small record each, in order of
arrival: a JSON list [order key, ts, [item ids]]. If views are recorded, a view of a slate is a separate
record without items, whose key is VIEWED and the order key.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

from ..checkout import Checkout, Slate
from .quarantine import CorruptHistoryError

VIEWED = "viewed: "  # before the order key of a slate, in a record that it was on screen
MAX_SLATES = 64  # of a user: a month of two orders a day


class ShownSlate(NamedTuple):
    """A slate that a user was shown after one order."""

    order_key: str  # the checkout's order_id, else the slate's request_id
    ts: int  # Unix seconds (UTC) of the checkout
    item_ids: tuple[str, ...]  # best first


class ReadableRecords(NamedTuple):
    """The readable and the unreadable records of a user."""

    readable: list[bytes]
    damaged: list[bytes]


@runtime_checkable
class ImpressionStore(Protocol):
    """A store that also keeps impressions; `get` returns them in `UserHistory.impressions`."""

    def append_impressions(self, user_id: str, slate: ShownSlate) -> None:
        """Add a slate, which is stored when the call returns. The newest MAX_SLATES of the user are kept.

        Raises OSError while the store is unavailable, and ValueError for input that cannot be stored.
        """


def keeps_impressions(store: object) -> TypeGuard[ImpressionStore]:
    """Whether the store keeps impressions. An exported `store.arrow` does not."""
    return isinstance(store, ImpressionStore)


def record_impressions(store: object, checkout: Checkout, slate: Slate, now: int) -> bool:
    """Store a user's impressions.

    Returns False if there is nothing to store: for guests, for empty or withheld slates, and for stores that
    keep no impressions.

    Args:
        now: Unix seconds (UTC), the time of a checkout without one.

    Raises OSError and ValueError as `append_impressions` does.
    """
    if checkout.user_id is None or not slate.items or slate.withheld or not keeps_impressions(store):
        return False
    ts = now if checkout.ts is None else checkout.ts
    item_ids = tuple(item.item_id for item in slate.items)
    store.append_impressions(
        checkout.user_id, ShownSlate(checkout.order_id or slate.request_id, ts, item_ids)
    )
    return True


def record_view(store: object, user_id: str, order_key: str, ts: int) -> None:
    """Store that a slate was viewed; does nothing if the store keeps no impressions.

    Raises OSError and ValueError as `append_impressions` does.
    """
    if keeps_impressions(store):
        store.append_impressions(user_id, ShownSlate(VIEWED + order_key, ts, ()))


def viewed_order_keys(slates: Iterable[ShownSlate]) -> set[str]:
    """The order keys of viewed slates."""
    keys = (slate.order_key for slate in slates)
    return {key.removeprefix(VIEWED) for key in keys if key.startswith(VIEWED)}


def pack_slate(slate: ShownSlate) -> bytes:
    """A slate as a record. Raises ValueError for text that is not Unicode."""
    return json.dumps(slate, ensure_ascii=False, separators=(",", ":")).encode()


def unpack_slates(records: Iterable[bytes]) -> tuple[ShownSlate, ...]:
    """The slates in a user's records, in the order of the records.

    Raises CorruptHistoryError for bytes that are not a record.
    """
    try:
        rows = json.loads(b"[" + b",".join(records) + b"]")
        return tuple(ShownSlate(key, int(ts), tuple(item_ids)) for key, ts, item_ids in rows)
    except (TypeError, ValueError) as error:
        raise CorruptHistoryError(f"the user's impressions are damaged: {error}") from error


def part_readable_slates(records: Iterable[bytes]) -> ReadableRecords:
    """The readable and the unreadable records of slates, both in order of arrival."""
    parts = ReadableRecords([], [])
    for record in records:
        try:
            unpack_slates([record])
        except ValueError:
            parts.damaged.append(record)
        else:
            parts.readable.append(record)
    return parts
