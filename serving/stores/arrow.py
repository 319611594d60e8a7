"""User histories in one memory-mapped Arrow file that is sorted by user id. Read-only.

| column | type |
|---|---|
| user_id | string, ascending |
| item_id, ts, kind, quantity, price | parallel lists, oldest first |
| profile | map of attribute names to values as text |
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS, Event
from ..storage.string_column import StringColumn
from .base import EMPTY_HISTORY, UserHistory
from .quarantine import CorruptHistoryError, DamagedUser

STRING = pa.string()
EVENT_COLUMNS = {
    "item_id": STRING,
    "ts": pa.int64(),
    "kind": STRING,
    "quantity": pa.float32(),
    "price": pa.float32(),
}
READ_AHEAD_BYTES = 1 << 28  # a disk reads as much in a second
STORE_SCHEMA: dict[str, pa.DataType] = {
    "user_id": STRING,
    **{name: pa.list_(value_type) for name, value_type in EVENT_COLUMNS.items()},
    "profile": pa.map_(STRING, STRING),
}
PACKAGE = __name__.partition(".")[0]  # `sextet`; in the repository `serving`


class ArrowStore:
    """A read-only Store (serving/stores/base.py): `ArrowStore.open(path)`."""

    def __init__(self, batches: Sequence[pa.RecordBatch], path: str) -> None:
        self._batches = [_UserBatch(batch) for batch in batches if batch.num_rows]
        self._first_user_ids = [batch.user_ids.bytes_at(0) for batch in self._batches]
        self.path = path

    @classmethod
    def open(cls, path: str | Path) -> "ArrowStore":
        """Map `store.arrow`. Raises FileNotFoundError, or ValueError if it is not a store."""
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: no such event store; python export.py writes one beside the bundles"
            )
        _read_ahead(path)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is not an Arrow file: {error}") from error
        for name, expected in STORE_SCHEMA.items():
            if name not in table.column_names:
                raise ValueError(f"{path}: column {name} is missing; export again")
            actual = table.schema.field(name).type
            if actual != expected:
                raise ValueError(f"{path}: column {name} is {actual}, not {expected}; export again")
        try:
            return cls(table.to_batches(), str(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; export again") from error

    def __len__(self) -> int:
        return sum(len(batch.user_ids) for batch in self._batches)

    def get(self, user_id: str) -> UserHistory:
        """The history of a user, copied from the file."""
        user = user_id.encode(errors="surrogatepass")  # no user of the file has a lone surrogate
        index = bisect_right(self._first_user_ids, user) - 1
        if index < 0:
            return EMPTY_HISTORY
        try:
            return self._batches[index].get(user)
        except CorruptHistoryError as error:
            raise CorruptHistoryError(f"{self.path}: user {user_id!r}: {error}") from error

    def iter_users(self) -> Iterator[tuple[str, UserHistory]]:
        """All users in the order of their ids. Raises CorruptHistoryError at a damaged row."""
        for batch in self._batches:
            for row in range(len(batch.user_ids)):
                yield batch.user_ids[row], batch.history(row)

    def damaged_users(self) -> Iterator[DamagedUser]:
        """All users whose row is damaged."""
        for batch in self._batches:
            for row in range(len(batch.user_ids)):
                try:
                    batch.history(row)
                except CorruptHistoryError:
                    yield DamagedUser(batch.user_ids[row], 1, 0)

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        """Raises ValueError."""
        raise self._read_only_error()

    def append_many(self, users: Iterable[tuple[str, UserHistory]]) -> None:
        """Raises ValueError."""
        raise self._read_only_error()

    def close(self) -> None:
        """Do nothing: the file is unmapped when the last history read from it is freed."""

    def _read_only_error(self) -> ValueError:
        return ValueError(
            f"{self.path} is read-only, it was exported. To do: python -m {PACKAGE} load --store URI"
            f" --from {self.path}, and serve with that store"
        )


class _UserBatch:
    """Views of a record batch, with which reading a user creates no Arrow object per value."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        lists = {name: batch[name] for name in STORE_SCHEMA if name != "user_id"}
        self.user_ids = StringColumn.from_arrow(batch["user_id"])
        self.list_offsets = [column.offsets.to_numpy().data for column in lists.values()]
        self.incomplete_events = _null_events(lists["ts"].values, lists["quantity"].values)
        self.item_id = StringColumn.from_arrow(lists["item_id"].values)
        self.kind = StringColumn.from_arrow(lists["kind"].values)
        self.copy_ts = _slice_copier(lists["ts"].values)
        self.copy_quantity = _slice_copier(lists["quantity"].values)
        self.copy_price = _slice_copier(lists["price"].values)
        self.profile_names = StringColumn.from_arrow(lists["profile"].keys)
        self.profile_values = lists["profile"].items

    def get(self, user: bytes) -> UserHistory:
        row = bisect_left(range(len(self.user_ids)), user, key=self.user_ids.bytes_at)
        exists = row < len(self.user_ids) and self.user_ids.bytes_at(row) == user
        return self.history(row) if exists else EMPTY_HISTORY

    def history(self, row: int) -> UserHistory:
        """A copy of a row's history, so that the disk is read now, not later. Raises CorruptHistoryError."""
        try:
            return self._read_history(row)
        except (ValueError, IndexError, pa.ArrowException) as error:
            raise CorruptHistoryError(f"row {row}: {error}; export again") from error

    def _read_history(self, row: int) -> UserHistory:
        item_id, ts, kind, quantity, price, (first, end) = (
            (offsets[row], offsets[row + 1]) for offsets in self.list_offsets
        )
        lengths = {end - first for first, end in (item_id, ts, kind, quantity, price)}
        if len(lengths) > 1 or min(lengths) < 0 or first > end:
            raise ValueError("its columns have different lengths")
        if np.searchsorted(self.incomplete_events, ts[0]) < np.searchsorted(self.incomplete_events, ts[1]):
            raise ValueError("an event lacks its ts or quantity")
        item_ids = self.item_id.copy_slice(*item_id)
        str(item_ids.data, "utf-8")  # raises for bytes that a stage would fail to decode
        return UserHistory(
            item_id=item_ids,
            ts=self.copy_ts(*ts),
            kind=_kind_codes(self.kind.copy_slice(*kind)),
            quantity=self.copy_quantity(*quantity),
            price=self.copy_price(*price),
            profile={self.profile_names[k]: self.profile_values[k].as_py() for k in range(first, end)},
        )


def _null_events(ts: pa.Array, quantity: pa.Array) -> NDArray[np.int64]:
    """Returns the positions of events without ts or quantity, in ascending order."""
    if not ts.null_count and not quantity.null_count:
        return np.zeros(0, np.int64)
    n_events = min(len(ts), len(quantity))
    is_null = pc.or_(ts.is_null()[:n_events], quantity.is_null()[:n_events])
    return np.flatnonzero(is_null.to_numpy(zero_copy_only=False))


def _slice_copier(column: pa.Array) -> Callable[[int, int], NDArray[Any]]:
    """Returns a function (first, end) → a copy of these numbers of the column. A null becomes NaN."""
    if column.null_count:
        return lambda first, end: np.array(column[first:end].to_numpy(zero_copy_only=False))
    values: NDArray[Any] = column.to_numpy()
    return lambda first, end: values[first:end].copy()


def _kind_codes(kinds: StringColumn) -> NDArray[np.int64]:
    """The positions [n] of kinds in HISTORY_KINDS."""
    if kinds.data == len(kinds) * HISTORY_KINDS[0].encode():  # purchases only
        return np.zeros(len(kinds), np.int64)
    return np.array([*map(HISTORY_KINDS.index, kinds)], np.int64)


def _read_ahead(path: str | Path) -> None:
    """Read the first READ_AHEAD_BYTES into memory, so that the first requests do not wait for the disk.

    The data of a user are in some twenty places of the file. (madvise reads 128 KB ahead at most.)
    """
    buffer, remaining = bytearray(1 << 20), READ_AHEAD_BYTES
    with open(path, "rb", buffering=0) as file:
        while remaining > 0 and (n_read := file.readinto(buffer)):
            remaining -= n_read
