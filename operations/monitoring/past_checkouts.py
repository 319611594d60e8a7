"""A shop's orders as checkouts, each with its basket, its context and the user's earlier purchases."""

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
    """C checkouts, ordered by user and time, and their L lines in the same order. Returns are left out."""

    order_id: NDArray  # [C] str
    user_id: NDArray  # [C] str
    ts: NDArray  # [C] int64, Unix seconds: the latest of the order's lines, as in training
    line_offsets: NDArray  # [C+1] int64, the checkout's first line
    context: dict[str, NDArray]  # attribute → [C] values, None where missing
    item_id: NDArray  # [L] str
    quantity: NDArray  # [L] float64
    price: NDArray  # [L] float64, unit price
    line_ts: NDArray  # [L] int64, the checkout's ts
    line_known_ts: NDArray  # [L] int64, `line_ts`, or when the line was ingested if that is later
    order_row: dict[str, int]  # order_id → row
    user_rows: dict[str, tuple[int, int]]  # user_id → the user's first row, and the row after the last row

    def history_before(self, user_id: str | None, ts: int) -> UserHistory:
        """Returns the user's purchases strictly before an instant, if they were already known then."""
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
        """The checkout in this row as it was sent, without its history. `ts` replaces its time."""
        lines = range(self.line_offsets[row], self.line_offsets[row + 1])
        return Checkout(
            self.user_id[row],
            [Line(self.item_id[k], float(self.quantity[k]), float(self.price[k])) for k in lines],
            int(self.ts[row]) if ts is None else ts,
            context={name: values[row] for name, values in self.context.items() if values[row] is not None},
            profile=profile or {},
            order_id=self.order_id[row],
        )


def read_order_history(con: ibis.BaseBackend, orders: ir.Table) -> OrderHistory:
    """Return the checkouts of a conformed table `orders`."""
    context = attribute_columns(orders, "orders")
    sold = orders.filter(orders.quantity > 0, orders.order_id.notnull(), orders.user_id.notnull())
    headers = sold.group_by("order_id").agg(
        _ts=sold.ts.max(), _user=sold.user_id.max(), **{f"_{name}": sold[name].max() for name in context}
    )
    lines = sold.select("_row", "order_id", "item_id", "quantity", "price", "ts", "ingested_at")
    joined = lines.join(headers, "order_id").order_by("_user", "_ts", "order_id", "_row")
    table = con.to_pyarrow(joined)
    order, user, ts = (table[name].to_numpy() for name in ("order_id", "_user", "_ts"))
    first_lines = _run_starts(order)
    user_starts = _run_starts(user[first_lines])
    user_ends = np.r_[user_starts[1:], len(first_lines)]
    headers_table = table.take(pa.array(first_lines))
    ingested = table["ingested_at"].fill_null(0).to_numpy()
    return OrderHistory(
        order_id=order[first_lines],
        user_id=user[first_lines],
        ts=ts[first_lines],
        line_offsets=np.r_[first_lines, len(order)],
        context={name: np.array(headers_table[f"_{name}"].to_pylist(), object) for name in context},
        item_id=table["item_id"].to_numpy(),
        quantity=table["quantity"].to_numpy(),
        price=table["price"].to_numpy(),
        line_ts=ts,
        line_known_ts=np.maximum(ts, ingested),
        order_row={name: row for row, name in enumerate(order[first_lines].tolist())},
        user_rows={
            user[first_lines[start]]: (int(start), int(end))
            for start, end in zip(user_starts.tolist(), user_ends.tolist(), strict=True)
        },
    )


def _run_starts(values: NDArray) -> NDArray:
    """The rows at which a run of equal values starts."""
    if not len(values):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
