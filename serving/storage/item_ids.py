"""Finds item rows by item ids, with a hash table in a file that processes share.

    id ─ CRC-32 of its UTF-8 ─▶ slot ─ the row of another id? try the next slot ─▶ its row, or 0: unknown

Open addressing with linear probing (Knuth, The Art of Computer Programming, vol. 3, 6.4, algorithm L). At
most half of the slots are taken: on average a known id takes 1.5 probes, an unknown one 2.5.
"""

from collections.abc import Iterable, Mapping
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .string_column import StringColumn, encode_utf8


class ItemRowMap:
    """Maps item ids to item rows, and unknown ids to 0. Safe to share between threads.

    Args:
        item_id: [N+1] ids by row; the id of row 0 counts as unknown.
        slots: [2^k] slots, as `build_slots` returns them.

    Raises ValueError for slots that were built for a different number of ids.
    """

    def __init__(self, item_id: pa.StringArray, slots: NDArray[np.int32]) -> None:
        if len(slots) != _slot_count(len(item_id)):
            expected = _slot_count(len(item_id))
            raise ValueError(f"{len(slots)} slots, expected {expected} for {len(item_id)} ids")
        self._ids = StringColumn.from_arrow(item_id)
        self._slots = slots.data
        self._new_rows: dict[bytes, int] = {}  # of items that the bundle lacks
        self._arrays = slots, *self._ids.to_numpy()

    def row(self, item_id: str) -> int:
        """The row of one id."""
        return self.lookup((item_id,))[0]

    def lookup(self, item_ids: Iterable[str]) -> list[int]:
        """The row of each id."""
        return self.lookup_encoded(encode_utf8(item_ids))

    def lookup_encoded(self, item_ids: list[bytes]) -> list[int]:
        """The row of each id; ids are UTF-8 bytes."""
        slots, offsets, text, mask = self._slots, self._ids.offsets, self._ids.data, len(self._slots) - 1
        rows = dict.fromkeys(item_ids, 0)  # a history repeats ids
        first_slots = [crc32(item_id) & mask for item_id in rows]
        self._prefetch(first_slots)
        for item_id, slot in zip(rows, first_slots, strict=True):
            while (row := slots[slot]) and text[offsets[row] : offsets[row + 1]] != item_id:
                slot = (slot + 1) & mask
            rows[item_id] = row
        if self._new_rows:
            new_rows = self._new_rows
            return [rows[item_id] or new_rows.get(item_id, 0) for item_id in item_ids]
        return [rows[item_id] for item_id in item_ids]

    def set_new_rows(self, new_rows: Mapping[str, int]) -> None:
        """Make these new ids known too. They replace the new ids of an earlier call."""
        self._new_rows = dict(zip(encode_utf8(new_rows), new_rows.values(), strict=True))

    def _prefetch(self, first_slots: list[int]) -> None:
        """Touch the memory of the lookup for all ids first, so that the processor waits only once."""
        slots, offsets, text = self._arrays
        text.take(offsets.take(slots.take(np.array(first_slots, np.int64))), mode="clip")


def build_slots(item_id: pa.StringArray) -> NDArray[np.int32]:
    """The slots [2^k] of ids [N+1]; row 0 and spare rows, whose id is "", get none.

    Raises ValueError for equal ids.
    """
    ids = item_id.to_pylist()
    mask = _slot_count(len(ids)) - 1
    slots = [0] * (mask + 1)
    for row, text in enumerate(ids[1:], start=1):
        if not text:
            continue
        slot = crc32(text.encode()) & mask
        while taken_by := slots[slot]:
            if ids[taken_by] == text:
                raise ValueError(f"rows {taken_by} and {row} have one item id, {text!r}")
            slot = (slot + 1) & mask
        slots[slot] = row
    return np.array(slots, np.int32)


def _slot_count(n_ids: int) -> int:
    """The number of slots for `n_ids` ids: the smallest power of two that is at least twice `n_ids`."""
    return 1 << (2 * n_ids - 1).bit_length()
