"""Event store URI → store.

| URI | store | for |
|---|---|---|
| a path ending in `.arrow` | serving/stores/arrow.py | what an export wrote; read-only |
| any other path | serving/stores/sqlite.py | one machine, any number of its processes |
| `redis://`, `valkey://`, and with TLS `rediss://`, `valkeys://` | serving/stores/valkey.py | many servers |
"""

from pathlib import Path

from .arrow import ArrowStore
from .base import MAX_EVENTS, READ_TIMEOUT, TTL, WRITE_TIMEOUT, Store
from .sqlite import EmbeddedStore


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
        max_events: of a user; older ones are dropped.
        read_timeout: seconds that `get` waits for a lock or an answer.
        write_timeout: seconds that `append` and `append_many` wait.
        ttl: seconds after the last append when a server forgets a user; None for never.
        durable: whether an embedded store flushes the disk at every append, so that a power cut loses none.
        create: whether to create an embedded store that does not exist.

    Raises FileNotFoundError, ValueError for a file that is no store or for options out of range, and
    ImportError if a server's client is not installed. The first call connects to a server.
    """
    if max_events < 1 or not read_timeout > 0 or not write_timeout > 0 or (ttl is not None and ttl < 1):
        raise ValueError("max_events and ttl must be 1 or more, timeouts above 0")
    scheme, separator, _ = str(uri).partition("://")
    if separator:
        from .valkey import ValkeyStore  # its client is an extra

        if scheme not in ValkeyStore.SCHEMES:
            raise ValueError(f"store {scheme}://: expected a path, or {', '.join(ValkeyStore.SCHEMES)}")
        return ValkeyStore(str(uri), max_events, read_timeout, write_timeout, ttl)
    if str(uri).endswith(".arrow"):
        return ArrowStore.open(uri)
    return EmbeddedStore(uri, max_events, read_timeout, write_timeout, durable, create)


def exported_store_path(bundle: Path) -> Path | None:
    """The `store.arrow` of a bundle root, which may be given by one of its version folders."""
    files = (bundle / "store.arrow", bundle.parent / "store.arrow")
    return next((file for file in files if file.is_file()), None)
