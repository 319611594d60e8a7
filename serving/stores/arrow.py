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

from ..checkout import KINDS, Event
from ..storage.string_column import Texts
from .base import NOTHING, Facts

TEXT = pa.string()
LISTS = {"item_id": TEXT, "ts": pa.int64(), "kind": TEXT, "quantity": pa.float32(), "price": pa.float32()}
AHEAD = 1 << 28  # bytes, of which a second is enough to read them
COLUMNS: dict[str, pa.DataType] = {
    "user_id": TEXT,
    **{name: pa.list_(kind) for name, kind in LISTS.items()},
    "profile": pa.map_(TEXT, TEXT),
}


class ArrowStore:
    """`ArrowStore.open(path)`, a Store (serving/stores/base.py) that cannot be appended to."""

    def __init__(self, batches: Sequence[pa.RecordBatch], path: str) -> None:
        self._parts = [_Part(batch) for batch in batches if batch.num_rows]
        self._first = [part.users.raw(0) for part in self._parts]
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
        for name, wanted in COLUMNS.items():
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
        return sum(len(part.users) for part in self._parts)

    def get(self, user_id: str) -> Facts:
        user = user_id.encode(errors="surrogatepass")  # half a pair: no user's
        place = bisect_right(self._first, user) - 1
        return self._parts[place].get(user) if place >= 0 else NOTHING

    def users(self) -> Iterator[tuple[str, Facts]]:
        """All users in the order of their ids."""
        for part in self._parts:
            for row in range(len(part.users)):
                yield part.users[row], part.facts(row)

    def append(
        self,
        user_id: str,
        events: Sequence[Event],
        profile: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> None:
        """Raises ValueError."""
        raise self._refusal()

    def load(self, users: Iterable[tuple[str, Facts]]) -> None:
        """Raises ValueError."""
        raise self._refusal()

    def close(self) -> None:
        """The file is unmapped when nothing of it is used any more."""

    def _refusal(self) -> ValueError:
        return ValueError(
            f"{self._path} is read-only, it was exported. To do: python -m serving load --store URI"
            f" --from {self._path}, and serve with that store"
        )


class _Part:
    """Views of a record batch: to read a user takes no Arrow object for every value."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        lists = [batch[name] for name in COLUMNS if name != "user_id"]
        self.users = Texts.of(batch["user_id"])
        self.starts = [column.offsets.to_numpy().data for column in lists]
        item_id, ts, kind, quantity, price = (column.values for column in lists[:-1])
        self.item_id, self.kind = Texts.of(item_id), Texts.of(kind)
        if ts.null_count or quantity.null_count:
            raise ValueError("an event lacks its ts or quantity")
        self.ts, self.quantity, self.price = _numbers(ts), _numbers(quantity), _numbers(price)
        self.names, self.values = Texts.of(lists[-1].keys), lists[-1].items

    def get(self, user: bytes) -> Facts:
        row = bisect_left(range(len(self.users)), user, key=self.users.raw)
        found = row < len(self.users) and self.users.raw(row) == user
        return self.facts(row) if found else NOTHING

    def facts(self, row: int) -> Facts:
        """Copies, so that what the disk has to read is read here."""
        item_id, ts, kind, quantity, price, (first, end) = ((s[row], s[row + 1]) for s in self.starts)
        return Facts(
            item_id=self.item_id.copy(*item_id),
            ts=self.ts(*ts),
            kind=_codes(self.kind.copy(*kind)),
            quantity=self.quantity(*quantity),
            price=self.price(*price),
            profile={self.names[k]: self.values[k].as_py() for k in range(first, end)},
        )


def _numbers(column: pa.Array) -> Callable[[int, int], NDArray]:
    """The function (first, end) → a copy of those numbers, NaN for null."""
    if column.null_count:
        return lambda first, end: np.array(column[first:end].to_numpy(zero_copy_only=False))
    flat = column.to_numpy()
    return lambda first, end: flat[first:end].copy()


def _codes(kinds: Texts) -> NDArray:
    """[n] int64 positions in KINDS."""
    if kinds.text == len(kinds) * KINDS[0].encode():  # all of them purchases
        return np.zeros(len(kinds), np.int64)
    return np.array([*map(KINDS.index, kinds)], np.int64)


def _read_ahead(path: str | Path) -> None:
    """Have the first AHEAD bytes in memory, so that the first requests do not wait for the disk: a user lies
    in some twenty places of the file. (madvise asks for 128 KB of it, whatever it is told.)"""
    buffer, left = bytearray(1 << 20), AHEAD
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (read := file.readinto(buffer)):
            left -= read
