"""The event store that a service reads and writes."""

from pathlib import Path

from ..storage.bundle import MANIFEST
from ..storage.bundle_mirror import is_mirror
from ..stores import uri as stores
from ..stores.arrow import ArrowStore
from ..stores.base import Store
from ..stores.uri import exported_store_path

LIVE_STATE_FILE = "live.sqlite"  # in a bundle root


def open_service_store(uri: str | None, bundle: Path) -> Store | None:
    """The store that a URI means, else `store.arrow` of the bundle root, else None.

    Raises OSError or ValueError for what is no store, ImportError for one whose client is missing.
    """
    location = exported_store_path(bundle) if uri is None else uri
    return None if location is None else stores.open_store(location)


def live_state_uri(live: str | None, store: str | None, bundle: Path) -> str | None:
    """Where the live state lies: `live` if given, else the store, else a file in the bundle root.

    None where neither can hold one: a store of an own class, with a bundle root behind a URI. Hosts that copy
    such a root would not share the file.
    """
    if live is not None:
        return live
    scheme, separator, _ = (store or "").partition("://")
    is_own_class = separator and "." in scheme
    if store is not None and not store.endswith(".arrow") and not is_own_class:
        return store
    root = bundle.parent if (bundle / MANIFEST).is_file() else bundle
    return None if is_mirror(root) else str(root / LIVE_STATE_FILE)


def is_writable(store: Store | None) -> bool:
    """Whether events can be added to the store: an exported `store.arrow` is read-only."""
    return store is not None and not isinstance(store, ArrowStore)
