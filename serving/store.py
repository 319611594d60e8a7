"""Recent events by user, from one memory-mapped Arrow file that is sorted by user id.

| column | type |
|---|---|
| user_id | string, ascending |
| item_id, ts, kind, quantity, price | parallel lists, oldest first |
| profile | map of attribute names to values as text |
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.checkout import KINDS

COLUMNS = ("user_id", "item_id", "ts", "kind", "quantity", "price", "profile")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a user: n events in columns, oldest first, and the profile."""

    item_id: list[str]
    ts: NDArray  # [n] int64
    kind: NDArray  # [n] int64, position in KINDS
    quantity: NDArray  # [n] float32
    price: NDArray  # [n] float32, NaN for unknown
    profile: dict[str, str] = field(default_factory=dict)


NOTHING = Facts(
    [], np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
)


class EventStore:
    """`EventStore.open(path).get(user_id)`. Safe to share between threads."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._users = table["user_id"]

    @classmethod
    def open(cls, path: str | Path) -> "EventStore":
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
        return cls(table)

    def __len__(self) -> int:
        return len(self._users)

    def get(self, user_id: str) -> Facts:
        """What is known of the user; nothing for one who is not in the store."""
        row = self._row(user_id)
        if row is None:
            return NOTHING
        lists = {name: self._table[name][row].values for name in COLUMNS[1:6]}
        kinds = lists["kind"].to_pylist()
        return Facts(
            item_id=lists["item_id"].to_pylist(),
            ts=lists["ts"].to_numpy(),
            kind=np.fromiter((KINDS.index(kind) for kind in kinds), np.int64, len(kinds)),
            quantity=lists["quantity"].to_numpy(),
            price=lists["price"].to_numpy(zero_copy_only=False),
            profile=dict(self._table["profile"][row].as_py() or ()),
        )

    def _row(self, user_id: str) -> int | None:
        low, high = 0, len(self._users)
        while low < high:
            middle = (low + high) // 2
            if self._users[middle].as_py() < user_id:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._users) and self._users[low].as_py() == user_id else None
