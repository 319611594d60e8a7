"""The parts that a service may have beside the recommender: an event store and an impression log."""

from pathlib import Path

from serving import store as stores
from serving.store import Store
from serving.store_arrow import ArrowStore


def open_store(uri: str | None, bundle: Path) -> Store | None:
    """The store that a URI means, else `store.arrow` of the bundle root, else None.

    Raises OSError or ValueError for what is no store, ImportError for one whose client is missing.
    """
    if uri is None:
        found = [file for file in (bundle / "store.arrow", bundle.parent / "store.arrow") if file.is_file()]
        if not found:
            return None
        uri = str(found[0])
    return stores.open_store(uri)


def accepts_events(store: Store | None) -> bool:
    """Whether events can be added to the store: an exported `store.arrow` is read-only."""
    return store is not None and not isinstance(store, ArrowStore)
