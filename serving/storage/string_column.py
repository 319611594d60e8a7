"""A column of strings, read where it lies.

Arrow makes two objects for a string before it is one of Python's, and a request reads hundreds of strings.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class StringColumn(Sequence[str]):
    """n strings; null reads as "". Safe to share between threads.

    Attributes:
        offsets: [n+1] int32, where each begins in `text`, and where the last ends. text: UTF-8.
    """

    def __init__(self, offsets: memoryview, data: memoryview) -> None:
        # Views, whose elements are plain ints, which are faster than the scalars of an array.
        self.offsets, self.data = offsets, data

    @classmethod
    def from_arrow(cls, column: pa.StringArray) -> "StringColumn":
        """The strings of an Arrow array, in its memory."""
        _, offsets, text = column.buffers()
        begins = memoryview(offsets or bytes(4)).cast("i")
        return cls(begins[column.offset :][: len(column) + 1], memoryview(text or b"\0").cast("B"))

    def copy_slice(self, first: int, end: int) -> "StringColumn":
        """The strings from `first` on, up to `end`, in memory of their own."""
        offsets = np.asarray(self.offsets[first : end + 1])
        text = self.data[offsets.item(0) : offsets.item(-1)].tobytes()
        return StringColumn((offsets - offsets[0]).data, memoryview(text))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[one] for one in range(len(self))[row]]
        return self.bytes_at(row if 0 <= row < len(self) else range(len(self))[row]).decode()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self.to_bytes_list())

    def bytes_at(self, row: int) -> bytes:
        """The bytes of a row from 0 to n - 1."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def to_bytes_list(self) -> list[bytes]:
        """The bytes of every row."""
        places = self.offsets.tolist()
        raw = self.data[places[0] : places[-1]].tobytes()
        return [raw[begin - places[0] : end - places[0]] for begin, end in pairwise(places)]

    def to_numpy(self) -> tuple[NDArray, NDArray]:
        """Offsets and text as arrays in the same memory."""
        return np.asarray(self.offsets), np.asarray(self.data)


def encode_utf8(texts: Iterable[str]) -> list[bytes]:
    """Each as UTF-8; half a surrogate pair too, which is in no column."""
    if isinstance(texts, StringColumn):
        return texts.to_bytes_list()
    return [text.encode(errors="surrogatepass") for text in texts]
