"""Item ids → item rows, by a hash table that lies in a file: a dict would be made anew by every process.

    id ─ CRC-32 of its UTF-8 ─▶ slot ─ the row of another id? on to the next slot ─▶ its row, or 0: unknown

Open addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3, 6.4, algorithm L). At
most half of the slots are taken: a known id is found in 1.5 steps on average, an unknown one missed in 2.5.
"""

from collections.abc import Iterable
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .string_column import StringColumn, encode_utf8


class ItemRowMap:
    """`rows(item_id)` → item row, 0 for an unknown id. Safe to share between threads.

    Args:
        item_id: [N+1] ids by row; that of row 0 counts as unknown.
        slots: [2^k] int32 as `slots_of` makes them.

    Raises ValueError for slots that are not those of so many ids.
    """

    def __init__(self, item_id: pa.StringArray, slots: NDArray) -> None:
        if len(slots) != _size(len(item_id)):
            raise ValueError(f"{len(slots)} slots, {len(item_id)} ids have {_size(len(item_id))}")
        self._ids = StringColumn.from_arrow(item_id)
        self._slots = slots.data
        self._arrays = slots, *self._ids.to_numpy()

    def __call__(self, item_id: str) -> int:
        return self.lookup((item_id,))[0]

    def lookup(self, item_ids: Iterable[str]) -> list[int]:
        """The row of each."""
        return self.lookup_encoded(encode_utf8(item_ids))

    def lookup_encoded(self, asked: list[bytes]) -> list[int]:
        """The row of each id, UTF-8."""
        slots, offsets, text, last = self._slots, self._ids.offsets, self._ids.data, len(self._slots) - 1
        found = dict.fromkeys(asked, 0)  # a history names what is bought again and again
        places = [crc32(one) & last for one in found]
        self._prefetch(places)
        for one, place in zip(found, places, strict=True):
            while (row := slots[place]) and text[offsets[row] : offsets[row + 1]] != one:
                place = (place + 1) & last
            found[one] = row
        return [found[one] for one in asked]

    def _prefetch(self, places: list[int]) -> None:
        """Read what finding the ids will read, so that the processor waits for memory once for all of them
        and not three times for each."""
        slots, offsets, text = self._arrays
        text.take(offsets.take(slots.take(np.array(places, np.int64))), mode="clip")


def build_slots(item_id: pa.StringArray) -> NDArray:
    """The slots [2^k] int32 of ids [N+1], the first of which is none. Raises ValueError for equal ids."""
    ids = item_id.to_pylist()
    last = _size(len(ids)) - 1
    slots = [0] * (last + 1)
    for row, one in enumerate(ids[1:], start=1):
        place = crc32(one.encode()) & last
        while other := slots[place]:
            if ids[other] == one:
                raise ValueError(f"rows {other} and {row} have one item id, {one!r}")
            place = (place + 1) & last
        slots[place] = row
    return np.array(slots, np.int32)


def _size(count: int) -> int:
    """The slots for `count` ids: a power of two, twice as many or more."""
    return 1 << (2 * count - 1).bit_length()
