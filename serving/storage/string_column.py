"""A column of strings, read in place.

Arrow creates two objects per string in addition to Python's own, and a request reads hundreds of strings.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class StringColumn(Sequence[str]):
    """A column of n strings. A null reads as "". Safe to share between threads.

    Attributes:
        offsets: [n+1] int32, the start of each string in `data`, and the end of the last string.
        data: UTF-8.
    """

    def __init__(self, offsets: memoryview, data: memoryview) -> None:
        # A memoryview's elements are plain ints, which are faster than the scalars of an array.
        self.offsets, self.data = offsets, data

    @classmethod
    def from_arrow(cls, column: pa.StringArray) -> "StringColumn":
        """The strings of an Arrow array, in the memory of the array."""
        _, offsets, data = column.buffers()
        all_offsets = memoryview(offsets or bytes(4)).cast("i")
        return cls(all_offsets[column.offset :][: len(column) + 1], memoryview(data or b"\0").cast("B"))

    def copy_slice(self, first: int, end: int) -> "StringColumn":
        """A copy of the strings from `first` up to `end`, `end` excluded."""
        offsets = np.asarray(self.offsets[first : end + 1])
        data = self.data[offsets.item(0) : offsets.item(-1)].tobytes()
        return StringColumn((offsets - offsets[0]).data, memoryview(data))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[index] for index in range(len(self))[row]]
        return self.bytes_at(row if 0 <= row < len(self) else range(len(self))[row]).decode()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self.to_bytes_list())

    def bytes_at(self, row: int) -> bytes:
        """The bytes of a row from 0 to n - 1."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def to_bytes_list(self) -> list[bytes]:
        """The bytes of every row."""
        offsets = self.offsets.tolist()
        data = self.data[offsets[0] : offsets[-1]].tobytes()
        return [data[start - offsets[0] : end - offsets[0]] for start, end in pairwise(offsets)]

    def to_numpy(self) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Offsets and data as arrays in the same memory."""
        return np.asarray(self.offsets), np.asarray(self.data)


def encode_utf8(texts: Iterable[str]) -> list[bytes]:
    """Encodes each text as UTF-8. A lone surrogate, which no column holds, does not raise."""
    if isinstance(texts, StringColumn):
        return texts.to_bytes_list()
    return [text.encode(errors="surrogatepass") for text in texts]
