"""Caches of slates and query vectors, by the state that they follow from.

The state is everything that the modules read of a request. Its time counts to the minute, because no age in
days changes within one. Each recommender has caches of its own: no result of another bundle is reused.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

Value = TypeVar("Value")
SECONDS_PER_MINUTE = 60


class LRUCache(Generic[Value]):
    """The `size` values that were used last. Safe to share between threads.

    cachetools.LRUCache needs the same lock, takes 1.6 (get) to 4 (put) times as long, and is a dependency.

    Attributes:
        hits: calls of `get` that returned a value.
        misses: calls of `get` that returned None.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.hits = self.misses = 0
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

    def put(self, key: Hashable, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self.size:
                self._values.popitem(last=False)

    def discard(self, is_discarded: Callable[[Any], bool]) -> None:
        """Remove the values of some keys."""
        with self._lock:
            for key in [key for key in self._values if is_discarded(key)]:
                del self._values[key]

    def clear(self) -> None:
        """Remove all values."""
        with self._lock:
            self._values.clear()


def query_fingerprint(columns: Sequence[NDArray[Any]]) -> bytes:
    """16 bytes that identify an encoded checkout (encode.QUERY_FIELDS), its time to the minute."""
    ts, *features = columns
    minute = ts.item() // SECONDS_PER_MINUTE
    content = b"".join(column.data for column in features)  # the offsets among them fix the lengths
    return blake2b(content, digest_size=16, salt=minute.to_bytes(8, signed=True)).digest()
