"""An Arrow IPC file of one record batch, as columns that lie in the file.

Processes share the pages of a file that they map, and nothing is read or copied to load one. The map is
copy-on-write: what a process writes stays its own and never reaches the file. (A map that cannot be written
to would do as well, but torch warns of such memory.)
"""

from mmap import ACCESS_COPY, mmap

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray


class MappedTable:
    """The record batch of an Arrow IPC file, uncompressed; `batch` has its columns as Arrow arrays.

    Raises OSError, ValueError or pyarrow.ArrowException for a file that is no such file.
    """

    def __init__(self, file: str) -> None:
        with open(file, "rb") as opened:
            self._bytes = np.frombuffer(mmap(opened.fileno(), 0, access=ACCESS_COPY), np.uint8)
        reader = pa.ipc.open_file(pa.py_buffer(self._bytes))
        if reader.num_record_batches != 1:
            raise ValueError(f"{reader.num_record_batches} record batches, expected one")
        self.batch = reader.get_batch(0)

    def string_column(self, name: str) -> pa.StringArray:
        """A column of strings. Raises ValueError if it is missing or of another type."""
        column = self._column(name)
        if column.type != pa.string():
            raise ValueError(f"column {name} is {column.type}, expected string")
        return column

    def numeric_column(self, name: str, dtype: DTypeLike) -> NDArray:
        """A column of numbers without nulls, in place: [N], or [N, size] of fixed-size lists.

        Raises ValueError if it is missing, has nulls or is of another type.
        """
        column = self._column(name)
        shape = [len(column)]
        if pa.types.is_fixed_size_list(column.type):
            shape.append(column.type.list_size)
            column = column.flatten()
        found = column.to_numpy()  # where it lies, else it raises: but read-only
        if found.dtype != dtype:
            raise ValueError(f"column {name} is {found.dtype}, expected {np.dtype(dtype)}")
        start = found.ctypes.data - self._bytes.ctypes.data
        return self._bytes[start : start + found.nbytes].view(dtype).reshape(shape)

    def _column(self, name: str) -> pa.Array:
        if name not in self.batch.schema.names:
            raise ValueError(f"no column {name}")
        return self.batch[name]
