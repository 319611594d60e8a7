"""Recent events by user, from one memory-mapped Arrow file that is sorted by user id. Read-only.

| column | type |
|---|---|
| user_id | string, ascending |
| item_id, ts, kind, quantity, price | parallel lists, oldest first |
| profile | map of attribute names to values as text |
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..checkout import HISTORY_KINDS, Event
from ..storage.string_column import StringColumn
from .base import EMPTY_HISTORY, UserHistory

STRING = pa.string()
EVENT_COLUMNS = {
    "item_id": STRING,
    "ts": pa.int64(),
    "kind": STRING,
    "quantity": pa.float32(),
    "price": pa.float32(),
}
READ_AHEAD_BYTES = 1 << 28  # bytes, of which a second is enough to read them
STORE_SCHEMA: dict[str, pa.DataType] = {
    "user_id": STRING,
    **{name: pa.list_(kind) for name, kind in EVENT_COLUMNS.items()},
    "profile": pa.map_(STRING, STRING),
}


class ArrowStore:
    """`ArrowStore.open(path)`, a Store (serving/stores/base.py) that cannot be appended to."""

    def __init__(self, batches: Sequence[pa.RecordBatch], path: str) -> None:
        self._batches = [_UserBatch(batch) for batch in batches if batch.num_rows]
        self._first_user_ids = [part.user_ids.bytes_at(0) for part in self._batches]
        self._path = path

    @classmethod
    def open(cls, path: str | Path) -> "ArrowStore":
        """Map `store.arrow`. Raises FileNotFoundError, or ValueError if it is no store."""
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: no such event store; python export.py writes one beside the bundles"
            )
        _read_ahead(path)
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no Arrow file: {error}") from error
        for name, wanted in STORE_SCHEMA.items():
            if name not in table.column_names:
                raise ValueError(f"{path}: column {name} is missing; export again")
            if table.schema.field(name).type != wanted:
                raise ValueError(
                    f"{path}: column {name} is {table.schema.field(name).type}, not {wanted}; export again"
                )
        try:
            return cls(table.to_batches(), str(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; export again") from error

    def __len__(self) -> int:
        return sum(len(part.user_ids) for part in self._batches)

    def get(self, user_id: str) -> UserHistory:
        user = user_id.encode(errors="surrogatepass")  # half a pair: no user's
        place = bisect_right(self._first_user_ids, user) - 1
        return self._batches[place].get(user) if place >= 0 else EMPTY_HISTORY

    def iter_users(self) -> Iterator[tuple[str, UserHistory]]:
        """All users in the order of their ids."""
        for part in self._batches:
            for row in range(len(part.user_ids)):
                yield part.user_ids[row], part.history(row)

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
        """The file is unmapped when nothing of it is used any more."""

    def _read_only_error(self) -> ValueError:
        return ValueError(
            f"{self._path} is read-only, it was exported. To do: python -m serving load --store URI"
            f" --from {self._path}, and serve with that store"
        )


class _UserBatch:
    """Views of a record batch: to read a user takes no Arrow object for every value."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        lists = [batch[name] for name in STORE_SCHEMA if name != "user_id"]
        self.user_ids = StringColumn.from_arrow(batch["user_id"])
        self.list_offsets = [column.offsets.to_numpy().data for column in lists]
        item_id, ts, kind, quantity, price = (column.values for column in lists[:-1])
        self.item_id, self.kind = StringColumn.from_arrow(item_id), StringColumn.from_arrow(kind)
        if ts.null_count or quantity.null_count:
            raise ValueError("an event lacks its ts or quantity")
        self.ts, self.quantity, self.price = _slice_copier(ts), _slice_copier(quantity), _slice_copier(price)
        self.profile_names, self.profile_values = StringColumn.from_arrow(lists[-1].keys), lists[-1].items

    def get(self, user: bytes) -> UserHistory:
        row = bisect_left(range(len(self.user_ids)), user, key=self.user_ids.bytes_at)
        found = row < len(self.user_ids) and self.user_ids.bytes_at(row) == user
        return self.history(row) if found else EMPTY_HISTORY

    def history(self, row: int) -> UserHistory:
        """Copies, so that what the disk has to read is read here."""
        item_id, ts, kind, quantity, price, (first, end) = ((s[row], s[row + 1]) for s in self.list_offsets)
        return UserHistory(
            item_id=self.item_id.copy_slice(*item_id),
            ts=self.ts(*ts),
            kind=_codes(self.kind.copy_slice(*kind)),
            quantity=self.quantity(*quantity),
            price=self.price(*price),
            profile={self.profile_names[k]: self.profile_values[k].as_py() for k in range(first, end)},
        )


def _slice_copier(column: pa.Array) -> Callable[[int, int], NDArray]:
    """The function (first, end) → a copy of those numbers, NaN for null."""
    if column.null_count:
        return lambda first, end: np.array(column[first:end].to_numpy(zero_copy_only=False))
    flat = column.to_numpy()
    return lambda first, end: flat[first:end].copy()


def _codes(kinds: StringColumn) -> NDArray:
    """[n] int64 positions in KINDS."""
    if kinds.data == len(kinds) * HISTORY_KINDS[0].encode():  # all of them purchases
        return np.zeros(len(kinds), np.int64)
    return np.array([*map(HISTORY_KINDS.index, kinds)], np.int64)


def _read_ahead(path: str | Path) -> None:
    """Have the first AHEAD bytes in memory, so that the first requests do not wait for the disk: a user lies
    in some twenty places of the file. (madvise asks for 128 KB of it, whatever it is told.)"""
    buffer, left = bytearray(1 << 20), READ_AHEAD_BYTES
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (read := file.readinto(buffer)):
            left -= read
