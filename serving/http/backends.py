"""The parts that a service may have beside the recommender: an event store and an impression log."""

from pathlib import Path

from ..stores import uri as stores
from ..stores.arrow import ArrowStore
from ..stores.base import Store


def open_service_store(uri: str | None, bundle: Path) -> Store | None:
    """The store that a URI means, else `store.arrow` of the bundle root, else None.

    Raises OSError or ValueError for what is no store, ImportError for one whose client is missing.
    """
    found = exported_store_path(bundle) if uri is None else uri
    return None if found is None else stores.open_store(found)


def exported_store_path(bundle: Path) -> Path | None:
    """The `store.arrow` of a bundle root, which may be given by one of its version folders."""
    files = (bundle / "store.arrow", bundle.parent / "store.arrow")
    return next((file for file in files if file.is_file()), None)


def is_writable(store: Store | None) -> bool:
    """Whether events can be added to the store: an exported `store.arrow` is read-only."""
    return store is not None and not isinstance(store, ArrowStore)
