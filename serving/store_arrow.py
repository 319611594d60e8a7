"""Recent events by user, from one memory-mapped Arrow file that is sorted by user id. Read-only.

| column | type |
|---|---|
| user_id | string, ascending |
| item_id, ts, kind, quantity, price | parallel lists, oldest first |
| profile | map of attribute names to values as text |
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from serving.checkout import KINDS, Event
from serving.store import NOTHING, Facts

COLUMNS = ("user_id", "item_id", "ts", "kind", "quantity", "price", "profile")


class ArrowStore:
    """`ArrowStore.open(path)`, a Store (serving/store.py) that cannot be appended to."""

    def __init__(self, table: pa.Table, path: str) -> None:
        self._users, *self._lists, self._profiles = (table[name] for name in COLUMNS)
        self._path = path

    @classmethod
    def open(cls, path: str | Path) -> "ArrowStore":
        """Map `store.arrow`. Raises FileNotFoundError, or ValueError if it is no store."""
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: no such event store; python export.py writes one beside the bundles"
            )
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no Arrow file: {error}") from error
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise ValueError(f"{path}: columns {', '.join(missing)} are missing; export again")
        return cls(table, str(path))

    def __len__(self) -> int:
        return len(self._users)

    def get(self, user_id: str) -> Facts:
        row = self._row(user_id)
        return NOTHING if row is None else self._facts(row)

    def users(self) -> Iterator[tuple[str, Facts]]:
        """All users in the order of their ids."""
        for row in range(len(self)):
            yield self._users[row].as_py(), self._facts(row)

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

    def _facts(self, row: int) -> Facts:
        item_id, ts, kind, quantity, price = (column[row].values for column in self._lists)
        return Facts(
            item_id=item_id.to_pylist(),
            ts=ts.to_numpy(),
            kind=np.array([*map(KINDS.index, kind.to_pylist())], np.int64),
            quantity=quantity.to_numpy(),
            price=price.to_numpy(zero_copy_only=False),
            profile=dict(self._profiles[row].as_py() or ()),
        )

    def _row(self, user_id: str) -> int | None:
        row = bisect_left(self._users, user_id, key=lambda user: user.as_py())
        return row if row < len(self._users) and self._users[row].as_py() == user_id else None
