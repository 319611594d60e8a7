"""What serving remembers of users: the one interface of all stores."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS, Checkout, Event

MAX_EVENTS = 4096  # what an example keeps of a user (`max_history`), so no bundle reads more by default
READ_TIMEOUT = 0.02  # seconds; of 100 ms, the rest is for the modules
WRITE_TIMEOUT = 1.0  # seconds; nobody waits for a slate while a checkout is noted
TTL = 400 * 86_400  # seconds; longer than a year, so that what returns once a year is still known


@dataclass(frozen=True, slots=True)
class UserHistory:
    """What is known of a user: n events in columns, oldest first, and the profile."""

    item_id: Sequence[str]
    ts: NDArray  # [n] int64
    kind: NDArray  # [n] int64, position in KINDS
    quantity: NDArray  # [n] float32
    price: NDArray  # [n] float32, NaN for unknown
    profile: dict[str, str] = field(default_factory=dict)


EMPTY_HISTORY = UserHistory(
    [], np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
)


class Store(Protocol):
    """A store of raw events by user. Safe to share between threads.

    Every method raises OSError (TimeoutError and ConnectionError among them) while the store cannot do it,
    and ValueError where what is stored is no history, or what is given cannot be stored.
    """

    def get(self, user_id: str) -> UserHistory:
        """What is known of the user, oldest first; nothing for one who is not in the store."""

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Add events, late ones too, and attributes. They are stored when it returns.

        Of all events the newest `max_events` by `ts` are kept; where it is equal, by arrival. An attribute
        replaces the one of the same name. `key`, an order's id, makes it safe to try again: what comes under
        a key that is among the user's last 256 (serving.stores.chunks.REMEMBERED) changes nothing.
        """

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Append much at once. The same facts of a user count once, as under a key of their own.

        Not all or nothing: if it fails, some users may have been stored. Doing it again is safe.
        """

    def close(self) -> None:
        """Let go of files and connections. Calls in progress finish, later ones raise ValueError."""


def history_from_events(events: Sequence[Event], profile: Mapping[str, str] | None = None) -> UserHistory:
    """Events in columns, in their own order."""
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
    """The lines just paid as events to append; `now`, in Unix seconds, for a checkout without a time."""
    ts = default_ts if checkout.ts is None else checkout.ts
    return [Event(line.item_id, ts, "purchase", line.quantity, line.price) for line in checkout.basket]
