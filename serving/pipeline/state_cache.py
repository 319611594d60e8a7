"""What was worked out before: slates and query vectors by the state that they follow from.

A recommender has caches of its own, so what another bundle made is never found. The state is everything that
the modules read of a request; its time counts to the minute, by which no age in days changes.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import Generic, TypeVar

from numpy.typing import NDArray

Value = TypeVar("Value")
MINUTE = 60  # seconds


class LRUCache(Generic[Value]):
    """The `size` values that were used last. Safe to share between threads.

    `hits` and `misses` count what `get` found.
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


def query_fingerprint(columns: Sequence[NDArray]) -> bytes:
    """What identifies an encoded checkout (serving.pipeline.encode.QUERY_FIELDS), its time to the minute: 16
    bytes."""
    ts, *rest = columns
    minute = ts.item() // MINUTE
    facts = b"".join(column.data for column in rest)  # their lengths are among them, as offsets
    return blake2b(facts, digest_size=16, salt=minute.to_bytes(8, signed=True)).digest()
