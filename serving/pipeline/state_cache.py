"""Caches of slates and query vectors, keyed by all inputs of a request.

The key covers everything that the modules read of a request. Time is rounded to the minute, because ages in
days hardly change within a minute. Each recommender has separate caches, so no result of another bundle is
reused.

Keys are digests of fixed size, because a request may hold any number of ids of any length. The bytes of a
cache are bounded too.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

Value = TypeVar("Value")
SECONDS_PER_MINUTE = 60
ENTRY_BYTES = 350  # of a key with its digests, the cache's own link and slot


class LRUCache(Generic[Value]):
    """A cache that keeps the most recently used values. Safe to share between threads.

    cachetools.LRUCache needs the same lock, takes 1.6 (get) to 4 (put) times as long, and adds a dependency.

    Args:
        size: maximum number of values.
        max_bytes: maximum bytes of all values, with ENTRY_BYTES added for each.
        size_of: value → bytes.

    Attributes:
        n_bytes: bytes of all values, as `max_bytes` counts them.
        hits: calls of `get` that returned a value.
        misses: calls of `get` that returned None.
    """

    def __init__(self, size: int, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.size, self.max_bytes, self.size_of = size, max_bytes, size_of
        self.hits = self.misses = self.n_bytes = 0
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        with self._lock:
            value = self._values.get(key)
            if value is None:
                self.misses += 1
            else:
                self.hits += 1
                self._values.move_to_end(key)
            return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self.n_bytes = 0

    def put(self, key: Hashable, value: Value) -> None:
        n_bytes = ENTRY_BYTES + self.size_of(value)
        with self._lock:
            replaced = self._values.pop(key, None)
            if replaced is not None:
                self.n_bytes -= ENTRY_BYTES + self.size_of(replaced)
            self._values[key] = value
            self.n_bytes += n_bytes
            while len(self._values) > self.size or self.n_bytes > self.max_bytes:
                _, oldest = self._values.popitem(last=False)
                self.n_bytes -= ENTRY_BYTES + self.size_of(oldest)


def query_fingerprint(columns: Sequence[NDArray[Any]]) -> bytes:
    """16 bytes that identify an encoded checkout (encode.QUERY_FIELDS).

    The checkout's time is rounded to the minute.
    """
    ts, *features = columns
    minute = ts.item() // SECONDS_PER_MINUTE
    content = b"".join(column.data for column in features)  # the offsets among them fix the lengths
    return blake2b(content, digest_size=16, salt=minute.to_bytes(8, signed=True)).digest()


def digest_text(text: str) -> bytes:
    """16 bytes that identify a text of any length."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def filter_fingerprint(
    exclude: Iterable[str], categories: Iterable[str] | None, capped_rows: Sequence[int]
) -> bytes:
    """16 bytes that identify the exclusions of a request, in any order; b"" without exclusions."""
    exclude = sorted(set(exclude))
    if not exclude and categories is None and not capped_rows:
        return b""
    lists = (exclude, None if categories is None else sorted(set(categories)), tuple(capped_rows))
    return digest_text(repr(lists))
