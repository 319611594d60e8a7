"""The event store that a service reads and writes."""

from pathlib import Path

from ..stores import uri as stores
from ..stores.arrow import ArrowStore
from ..stores.base import Store
from ..stores.uri import exported_store_path


def open_service_store(uri: str | None, bundle: Path) -> Store | None:
    """The store of a URI, else `store.arrow` of the bundle root, else None.

    Raises OSError or ValueError for a URI that is not a store, and ImportError if a server's client package
    is missing.
    """
    location = exported_store_path(bundle) if uri is None else uri
    return None if location is None else stores.open_store(location)


def is_writable(store: Store | None) -> bool:
    """Whether events can be added to the store: an exported `store.arrow` is read-only."""
    return store is not None and not isinstance(store, ArrowStore)
