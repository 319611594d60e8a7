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


class ItemRows:
    """`rows(item_id)` → item row, 0 for an unknown id. Safe to share between threads.

    Args:
        item_id: [N+1] ids by row; that of row 0 counts as unknown.
        slots: [2^k] int32 as `slots_of` makes them.

    Raises ValueError for slots that are not those of so many ids.
    """

    def __init__(self, item_id: pa.StringArray, slots: NDArray) -> None:
        if len(slots) != _size(len(item_id)):
            raise ValueError(f"{len(slots)} slots, {len(item_id)} ids have {_size(len(item_id))}")
        _, offsets, text = item_id.buffers()
        # Views, whose elements are plain ints, which are faster than the scalars of an array.
        self._offsets = memoryview(offsets).cast("i")[item_id.offset :]
        self._text = memoryview(text or b"\0").cast("B")
        self._slots = slots.data
        self._arrays = slots, np.asarray(self._offsets), np.asarray(self._text)

    def __call__(self, item_id: str) -> int:
        return self.many((item_id,))[0]

    def many(self, item_ids: Iterable[str]) -> list[int]:
        """The row of each."""
        slots, offsets, text, last = self._slots, self._offsets, self._text, len(self._slots) - 1
        asked = [*item_ids]
        found = dict.fromkeys(asked, 0)  # a history names what is bought again and again
        encoded = [item_id.encode(errors="surrogatepass") for item_id in found]  # half a pair: in no id
        places = [crc32(one) & last for one in encoded]
        self._fetch(places)
        for item_id, one, place in zip(found, encoded, places, strict=True):
            while (row := slots[place]) and text[offsets[row] : offsets[row + 1]] != one:
                place = (place + 1) & last
            found[item_id] = row
        return [found[item_id] for item_id in asked]

    def _fetch(self, places: list[int]) -> None:
        """Read what finding the ids will read, so that the processor waits for memory once for all of them
        and not three times for each."""
        slots, offsets, text = self._arrays
        text.take(offsets.take(slots.take(np.array(places, np.int64))), mode="clip")


def slots_of(item_id: pa.StringArray) -> NDArray:
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
