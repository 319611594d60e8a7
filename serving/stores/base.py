"""The interface of all stores of user histories."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS, SECONDS_PER_DAY, Checkout, Event
from .impressions import ShownSlate

MAX_EVENTS = 4096  # as many as a training example keeps of a user (`max_history`)
READ_TIMEOUT = 0.02  # seconds; the modules need the rest of 100 ms
WRITE_TIMEOUT = 1.0  # seconds; no slate waits for a write
KEY_BYTES = 8  # of an idempotency key's hash
TTL = 400 * SECONDS_PER_DAY  # longer than a year, so that yearly purchases are still known


@dataclass(frozen=True, slots=True)
class UserHistory:
    """The profile of a user, and the user's n events in columns, oldest first."""

    item_id: Sequence[str]
    ts: NDArray[np.int64]  # [n], Unix seconds (UTC)
    kind: NDArray[np.int64]  # [n], position in HISTORY_KINDS
    quantity: NDArray[np.float32]  # [n]
    price: NDArray[np.float32]  # [n], NaN for unknown
    profile: dict[str, str] = field(default_factory=dict)
    impressions: tuple[ShownSlate, ...] = ()  # slates of earlier orders, in order of arrival
    # [n] uint64: `idempotency_hash` of the key that each event was appended under, 0 for none; None: unknown
    key_hash: NDArray[np.uint64] | None = None

    def without_order(self, order_id: str | None) -> "UserHistory":
        """The history without the events that were appended under the key `order_id`.

        The lines of a checkout may be recorded before its slate is requested. These lines are the basket of
        the request, so in the history they would count twice.
        """
        if order_id is None or self.key_hash is None:
            return self
        kept = np.flatnonzero(self.key_hash != idempotency_hash(order_id))
        return self if len(kept) == len(self.ts) else self.take(kept)

    def take(self, events: NDArray[np.intp]) -> "UserHistory":
        """The history with the events at these positions, in that order."""
        return replace(
            self,
            item_id=[self.item_id[k] for k in events.tolist()],
            key_hash=None if self.key_hash is None else self.key_hash[events],
            **{name: getattr(self, name)[events] for name in ("ts", "kind", "quantity", "price")},
        )


def idempotency_hash(key: str) -> int:
    """The hash of an idempotency key: a number of 8 bytes, never 0."""
    text = key.encode(errors="surrogatepass")  # a key that is not Unicode is that of no stored event
    return int.from_bytes(blake2b(text, digest_size=KEY_BYTES).digest(), "little") or 1


EMPTY_HISTORY = UserHistory(
    [], np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
)

UNREAD_HISTORY = replace(EMPTY_HISTORY)  # stands for the history of a user whose store was not read


class Store(Protocol):
    """A store of raw events by user. Safe to share between threads.

    A store that keeps impressions is also an ImpressionStore (serving/stores/impressions.py), a store whose
    orders can be amended is an OrderStore (orders.py), and a store that sets damaged histories aside is a
    QuarantineStore (quarantine.py).

    Every method raises OSError (TimeoutError and ConnectionError among them) while the store is unavailable,
    ValueError for input that cannot be stored, and its subclass CorruptHistoryError (quarantine.py) for a
    damaged history.
    """

    def get(self, user_id: str) -> UserHistory:
        """The history of a user; EMPTY_HISTORY for a user who is not in the store."""

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Store events (also late ones) and attributes before returning.

        The newest `max_events` events by `ts` are kept; among equal times, the last to arrive. An attribute
        replaces an earlier attribute of the same name. With `idempotency_key`, an order's id, a retry is
        safe: an append whose key is among the user's last 256 (serving.stores.chunks.MAX_IDEMPOTENCY_KEYS)
        changes nothing. `get` returns the keys in `UserHistory.key_hash`, so that the slate of an order can
        leave the order's lines out of the history. With a store that returns None there, these lines count
        twice.
        """

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Append many histories at once. A repeated history of a user counts once, as if it had a key.

        The call is not atomic: if it fails, some users may be stored already. A retry is safe.
        """

    def close(self) -> None:
        """Release files and connections. Calls in progress finish; later calls raise ValueError."""


def history_from_events(events: Sequence[Event], profile: Mapping[str, str] | None = None) -> UserHistory:
    """The history with these events in columns, in the given order."""
    if not events and not profile:
        return EMPTY_HISTORY
    return UserHistory(
        item_id=[event.item_id for event in events],
        ts=np.array([event.ts for event in events], np.int64),
        kind=np.array([HISTORY_KINDS.index(event.kind) for event in events], np.int64),
        quantity=np.array([event.quantity for event in events], np.float32),
        price=np.array([math.nan if event.price is None else event.price for event in events], np.float32),
        profile=dict(profile or {}),
    )


def purchase_events(checkout: Checkout, default_ts: int) -> list[Event]:
    """The lines just paid as events to append; `default_ts` dates a checkout without a time."""
    ts = default_ts if checkout.ts is None else checkout.ts
    return [Event(line.item_id, ts, "purchase", line.quantity, line.price) for line in checkout.basket]
