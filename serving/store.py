"""What serving remembers of users: the one interface of all stores, and which of them a URI means.

| URI | store | for |
|---|---|---|
| a path ending in `.arrow` | serving/store_arrow.py | what an export wrote; read-only |
| any other path | serving/store_embedded.py | one machine, any number of its processes |
| `redis://`, `valkey://`, and with TLS `rediss://`, `valkeys://` | serving/store_valkey.py | many servers |
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.checkout import KINDS, Checkout, Event

MAX_EVENTS = 4096  # what an example keeps of a user (`max_history`), so no bundle reads more by default
READ_TIMEOUT = 0.02  # seconds; of 100 ms, the rest is for the modules
WRITE_TIMEOUT = 1.0  # seconds; nobody waits for a slate while a checkout is noted
TTL = 400 * 86_400  # seconds; longer than a year, so that what returns once a year is still known


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a user: n events in columns, oldest first, and the profile."""

    item_id: Sequence[str]
    ts: NDArray  # [n] int64
    kind: NDArray  # [n] int64, position in KINDS
    quantity: NDArray  # [n] float32
    price: NDArray  # [n] float32, NaN for unknown
    profile: dict[str, str] = field(default_factory=dict)


NOTHING = Facts(
    [], np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
)


class Store(Protocol):
    """A store of raw events by user. Safe to share between threads.

    Every method raises OSError (TimeoutError and ConnectionError among them) while the store cannot do it,
    and ValueError where what is stored is no history, or what is given cannot be stored.
    """

    def get(self, user_id: str) -> Facts:
        """What is known of the user, oldest first; nothing for one who is not in the store."""

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        """Add events, late ones too, and attributes. They are stored when it returns.

        Of all events the newest `max_events` by `ts` are kept; where it is equal, by arrival. An attribute
        replaces the one of the same name. `key`, an order's id, makes it safe to try again: what comes under
        a key that is among the user's last 256 (serving.chunks.REMEMBERED) changes nothing.
        """

    def load(self, users: Iterable[tuple[str, Facts]]) -> None:
        """Append much at once. The same facts of a user count once, as under a key of their own.

        Not all or nothing: if it fails, some users may have been stored. Doing it again is safe.
        """

    def close(self) -> None:
        """Let go of files and connections. Calls in progress finish, later ones raise ValueError."""


def open_store(
    uri: str | Path,
    *,
    max_events: int = MAX_EVENTS,
    read_timeout: float = READ_TIMEOUT,
    write_timeout: float = WRITE_TIMEOUT,
    ttl: int | None = TTL,
    durable: bool = False,
    create: bool = True,
) -> Store:
    """The store that a URI means (the table above).

    Args:
        max_events: the newest events kept by user.
        read_timeout, write_timeout: seconds that `get`, and `append` or `load`, wait for a lock or an answer.
        ttl: seconds after the last append when a server forgets a user; None for never.
        durable: whether an embedded store survives a power cut with everything acknowledged, for a flush of
            the disk at every append.
        create: whether to make an embedded store that is not there.

    Raises FileNotFoundError, ValueError for a file that is no store or options that make no sense, and
    ImportError if a server's client is not installed. A server is not asked before the first call.
    """
    if max_events < 1 or not read_timeout > 0 or not write_timeout > 0 or (ttl is not None and ttl < 1):
        raise ValueError("max_events and ttl must be 1 or more, timeouts above 0")
    # Imported here: each of them imports this module, and one needs a client that others do without.
    scheme, separator, _ = str(uri).partition("://")
    if separator:
        from serving.store_valkey import ValkeyStore

        if scheme not in ValkeyStore.SCHEMES:
            raise ValueError(f"store {scheme}://: expected a path, or {', '.join(ValkeyStore.SCHEMES)}")
        return ValkeyStore(str(uri), max_events, read_timeout, write_timeout, ttl)
    if str(uri).endswith(".arrow"):
        from serving.store_arrow import ArrowStore

        return ArrowStore.open(uri)
    from serving.store_embedded import EmbeddedStore

    return EmbeddedStore(uri, max_events, read_timeout, write_timeout, durable, create)


def facts_of(events: Sequence[Event], profile: Mapping[str, str] | None = None) -> Facts:
    """Events in columns, in their own order."""
    if not events and not profile:
        return NOTHING
    return Facts(
        item_id=[event.item_id for event in events],
        ts=np.array([event.ts for event in events], np.int64),
        kind=np.array([KINDS.index(event.kind) for event in events], np.int64),
        quantity=np.array([event.quantity for event in events], np.float32),
        price=np.array([math.nan if event.price is None else event.price for event in events], np.float32),
        profile=dict(profile or {}),
    )


def purchases_of(checkout: Checkout, now: int) -> list[Event]:
    """The lines just paid as events to append; `now`, in Unix seconds, for a checkout without a time."""
    ts = now if checkout.ts is None else checkout.ts
    return [Event(line.item_id, ts, "purchase", line.quantity, line.price) for line in checkout.basket]
