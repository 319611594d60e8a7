"""An Arrow IPC file of one record batch, whose columns stay in the file.

Processes share the pages of a mapped file, and loading copies nothing. The map is copy-on-write: writes of a
process stay private and never reach the file. (A read-only map would be enough, but torch warns about such
memory.)
"""

from mmap import ACCESS_COPY, mmap
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


class MappedTable:
    """The record batch of an uncompressed Arrow IPC file; `batch` has its columns as Arrow arrays.

    Raises OSError, ValueError or pyarrow.ArrowException for any other file.
    """

    def __init__(self, file: str) -> None:
        with open(file, "rb") as opened:
            self._bytes = np.frombuffer(mmap(opened.fileno(), 0, access=ACCESS_COPY), np.uint8)
        reader = pa.ipc.open_file(pa.py_buffer(self._bytes))
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches, expected one")
        self.batch = reader.get_batch(0)

    def string_column(self, name: str) -> pa.StringArray:
        """A column of strings. Raises ValueError if the column is missing or of another type."""
        column = self._column(name)
        if column.type != pa.string():
            raise ValueError(f"column {name} is {column.type}, expected string")
        return column

    def numeric_column(self, name: str, dtype: DTypeLike) -> NDArray[Any]:
        """Returns a column of numbers in place: [N], or [N, size] for fixed-size lists.

        Raises ValueError if the column is missing, has nulls or is of another type.
        """
        column = self._column(name)
        shape = [len(column)]
        if pa.types.is_fixed_size_list(column.type):
            shape.append(column.type.list_size)
            column = column.flatten()
        read_only = column.to_numpy()  # a view; raises where Arrow would have to copy
        if read_only.dtype != dtype:
            raise ValueError(f"column {name} is {read_only.dtype}, expected {np.dtype(dtype)}")
        start = read_only.ctypes.data - self._bytes.ctypes.data
        return self._bytes[start : start + read_only.nbytes].view(dtype).reshape(shape)

    def _column(self, name: str) -> pa.Array:
        if name not in self.batch.schema.names:
            raise ValueError(f"no column {name}")
        return self.batch[name]
