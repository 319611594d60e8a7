"""The parts that a service may have beside the recommender: an event store and an impression log."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from serving import store as stores
from serving.checkout import Checkout, Event, Slate
from serving.store import Facts


@runtime_checkable
class Store(Protocol):
    """A store of events that can be added to. Shared between threads; every process opens its own."""

    def get(self, user_id: str) -> Facts:
        """What is known of the user."""

    def append(
        self, user_id: str, events: Sequence[Event], profile: Mapping[str, str] = {}, key: str | None = None
    ) -> None:
        """Add events and attributes; the same key twice changes nothing. Raises OSError while it cannot."""

    def close(self) -> None:
        """Write what is left and let go of files and connections."""


class Log(Protocol):
    """The impression log. A call only puts into a queue and never waits for a disk."""

    def slate(self, checkout: Checkout, slate: Slate, arm: str = "") -> None:
        """Log what is shown after a checkout."""

    def feedback(
        self, kind: str, request_id: str | None, item_id: str, ts: int | None = None,
        user_id: str | None = None, value: float | None = None,
    ) -> None:  # fmt: skip
        """Log what the shopper did with an item."""

    def close(self) -> None:
        """Write what is left."""


def open_store(uri: str | None, bundle: Path) -> Any:
    """The store that a URI means, else `store.arrow` of the bundle root, else None.

    Raises OSError or ValueError for what is no store, ImportError for one whose client is missing.
    """
    if uri is None:
        found = [file for file in (bundle / "store.arrow", bundle.parent / "store.arrow") if file.is_file()]
        if not found:
            return None
        uri = str(found[0])
    opener = getattr(stores, "open_store", stores.EventStore.open)
    return opener(uri)


def open_log(folder: Path | None) -> Log | None:
    """The impression log of a folder. Raises ImportError where this release has none, OSError, ValueError."""
    if folder is None:
        return None
    log: Log = import_module("serving.impressions").ImpressionLog(folder)
    return log


def accepts_events(store: Any) -> bool:
    """Whether events can be added to the store: an exported `store.arrow` is read-only."""
    return isinstance(store, Store) and not isinstance(store, stores.EventStore)
