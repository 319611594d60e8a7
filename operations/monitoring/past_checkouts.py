"""A shop's orders as checkouts: each with its basket, its context and what its user had bought before."""

from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.tables.contract import attribute_columns
from serving import Checkout, Line
from serving.stores.base import EMPTY_HISTORY, UserHistory


class OrderHistory(NamedTuple):
    """C checkouts by user and time, and their L lines in the same order. Returns are no lines."""

    order_id: NDArray  # [C] str
    user_id: NDArray  # [C] str
    ts: NDArray  # [C] int64, Unix seconds: the latest of the order's lines, as in training
    line_offsets: NDArray  # [C+1] int64, the checkout's first line
    context: dict[str, NDArray]  # attribute → [C] values, None where missing
    item_id: NDArray  # [L] str
    quantity: NDArray  # [L] float64
    price: NDArray  # [L] float64, of a unit
    line_ts: NDArray  # [L] int64, the checkout's ts
    line_known_ts: NDArray  # [L] int64, when the line was known: at `at`, or when it was ingested
    order_row: dict[str, int]  # order_id → row
    user_rows: dict[str, tuple[int, int]]  # user_id → the first row of that user, and the one behind the last

    def history_before(self, user_id: str | None, ts: int) -> UserHistory:
        """What a user had bought strictly before an instant, as far as it was known by then."""
        if user_id not in self.user_rows:
            return EMPTY_HISTORY
        start, stop = self.user_rows[user_id]
        stop = start + int(np.searchsorted(self.ts[start:stop], ts))
        lines = np.arange(self.line_offsets[start], self.line_offsets[stop])
        lines = lines[self.line_known_ts[lines] < ts]
        return UserHistory(
            self.item_id[lines].tolist(),
            self.line_ts[lines],
            np.zeros(len(lines), np.int64),
            self.quantity[lines].astype(np.float32),
            self.price[lines].astype(np.float32),
        )

    def checkout(self, row: int, ts: int | None = None, profile: dict[str, Any] | None = None) -> Checkout:
        """A checkout as it was sent, by default at its own time; without its history."""
        lines = range(self.line_offsets[row], self.line_offsets[row + 1])
        return Checkout(
            self.user_id[row],
            [Line(self.item_id[k], float(self.quantity[k]), float(self.price[k])) for k in lines],
            int(self.ts[row]) if ts is None else ts,
            context={name: of[row] for name, of in self.context.items() if of[row] is not None},
            profile=profile or {},
            order_id=self.order_id[row],
        )


def read_order_history(con: ibis.BaseBackend, table: ir.Table) -> OrderHistory:
    """The checkouts of a conformed table `orders`."""
    context = attribute_columns(table, "orders")
    good = table.filter(table.quantity > 0, table.order_id.notnull(), table.user_id.notnull())
    heads = good.group_by("order_id").agg(
        _at=good.ts.max(), _user=good.user_id.max(), **{f"_{name}": good[name].max() for name in context}
    )
    lines = good.select("_row", "order_id", "item_id", "quantity", "price", "ts", "ingested_at")
    t = lines.join(heads, "order_id").order_by("_user", "_at", "order_id", "_row")
    found = con.to_pyarrow(t)
    order, user = found["order_id"].to_numpy(), found["_user"].to_numpy()
    first = np.flatnonzero(np.r_[True, order[1:] != order[:-1]]) if len(order) else np.zeros(0, np.int64)
    at = found["_at"].to_numpy()
    begins = np.flatnonzero(np.r_[True, user[first][1:] != user[first][:-1]]) if len(first) else first
    ends = np.r_[begins[1:], len(first)]
    heads = found.take(pa.array(first))
    ingested = found["ingested_at"].fill_null(0).to_numpy()
    return OrderHistory(
        order[first],
        user[first],
        at[first],
        np.r_[first, len(order)],
        {name: np.array(heads[f"_{name}"].to_pylist(), object) for name in context},
        found["item_id"].to_numpy(),
        found["quantity"].to_numpy(),
        found["price"].to_numpy(),
        at,
        np.maximum(at, ingested),
        {name: row for row, name in enumerate(order[first].tolist())},
        {
            user[first[start]]: (int(start), int(end))
            for start, end in zip(begins.tolist(), ends.tolist(), strict=True)
        },
    )
