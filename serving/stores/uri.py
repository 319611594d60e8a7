"""Opens the event store or live state of a URI.

| URI | store | for |
|---|---|---|
| a path ending in `.arrow` | serving/stores/arrow.py | the histories of an export; read-only |
| any other path | serving/stores/sqlite.py | one machine, any number of its processes |
| `redis://`, `valkey://`, and with TLS `rediss://`, `valkeys://` | serving/stores/valkey.py | many servers |
| `my_package.my_module.MyStore://` and an address | your class (base.py) | any other database |
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from ..storage.bundle import MANIFEST
from ..storage.bundle_mirror import is_mirror
from .arrow import ArrowStore
from .base import MAX_EVENTS, READ_TIMEOUT, TTL, WRITE_TIMEOUT, Store
from .live_state import LiveState, SQLiteLiveState
from .sqlite import EmbeddedStore

LIVE_STATE_FILE = "live.sqlite"  # in a bundle root
STORE_METHODS = ("get", "append", "append_many", "close")


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
    """The store of a URI (the table above).

    Args:
        max_events: maximum number of a user's events; older events are dropped.
        read_timeout: seconds that `get` waits for a lock or an answer.
        write_timeout: seconds that `append` and `append_many` wait.
        ttl: seconds after a user's last append until a server deletes the user; None for never.
        durable: whether an embedded store flushes every append to the disk, so that a power cut loses none.
        create: whether to create an embedded store that does not exist.

    Raises FileNotFoundError, ValueError for a file or class that is not a store or for options out of range,
    and ImportError if a server's client or the module of a class is not installed. The first call connects to
    a server.
    """
    if max_events < 1 or not read_timeout > 0 or not write_timeout > 0 or (ttl is not None and ttl < 1):
        raise ValueError("max_events and ttl must be 1 or more, timeouts above 0")
    scheme, separator, address = str(uri).partition("://")
    if "." in scheme and separator:
        options = {"max_events": max_events, "read_timeout": read_timeout, "write_timeout": write_timeout}
        return _open_own_store(scheme, address, **options, ttl=ttl, durable=durable, create=create)
    if separator:
        from .valkey import ValkeyStore  # its client is an extra

        if scheme not in ValkeyStore.SCHEMES:
            schemes = ", ".join(ValkeyStore.SCHEMES)
            raise ValueError(f"store {scheme}://: expected a path, {schemes}, or the dotted path of a class")
        return ValkeyStore(str(uri), max_events, read_timeout, write_timeout, ttl)
    if str(uri).endswith(".arrow"):
        return ArrowStore.open(uri)
    return EmbeddedStore(uri, max_events, read_timeout, write_timeout, durable, create)


def open_live_state(uri: str | Path, create: bool = True) -> LiveState:
    """The live state in an SQLite file or on a server. With `create`, the first write creates the file.

    The file or server of an event store can also hold a live state. Raises ValueError for another scheme,
    ImportError without the server's client. The first call connects to a server.
    """
    scheme, separator, _ = str(uri).partition("://")
    if not separator:
        return SQLiteLiveState(Path(uri), create)
    from .valkey_live_state import ValkeyLiveState  # its client is an extra

    if scheme not in ValkeyLiveState.SCHEMES:
        raise ValueError(f"live state {scheme}://: expected a path, {', '.join(ValkeyLiveState.SCHEMES)}")
    return ValkeyLiveState(str(uri))


def _open_own_store(class_path: str, address: str, **options: Any) -> Store:
    """Makes a store of the class at a dotted path, from an address and the options of `open_store`.

    Raises ImportError for a class that cannot be imported, ValueError for one whose objects are not stores.
    """
    module_name, _, name = class_path.rpartition(".")
    try:
        factory = getattr(import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"store {class_path}: {error}. Install its package, or add its folder to PYTHONPATH"
        ) from error
    store: Store = factory(address, **options)
    missing = [method for method in STORE_METHODS if not callable(getattr(store, method, None))]
    if missing:
        raise ValueError(
            f"store {class_path} lacks the methods {', '.join(missing)}: implement the interface of "
            "serving/stores/base.py"
        )
    return store


def exported_store_path(bundle: Path) -> Path | None:
    """The `store.arrow` of a bundle root. A version folder stands for its bundle root."""
    files = (bundle / "store.arrow", bundle.parent / "store.arrow")
    return next((file for file in files if file.is_file()), None)


def bundle_root(bundle: Path) -> Path:
    """The bundle root of a path. A version folder stands for its bundle root."""
    return bundle.parent if (bundle / MANIFEST).is_file() else bundle


def live_state_uri(live: str | None, store: str | None, bundle: Path) -> str | None:
    """The URI of the live state:

    `live` if given, else the store, else a file in the bundle root. None if neither store nor bundle root can
    hold it: the store is of your own class, and the bundle root is at a URI. Hosts that copy such a root
    would not share the file.
    """
    if live is not None:
        return live
    scheme, separator, _ = (store or "").partition("://")
    is_own_class = separator and "." in scheme
    if store is not None and not store.endswith(".arrow") and not is_own_class:
        return store
    root = bundle_root(bundle)
    return None if is_mirror(root) else str(root / LIVE_STATE_FILE)
