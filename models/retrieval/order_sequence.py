"""A user's orders as a padded sequence for sequence encoders: one row per order, the basket last.

    history   [a b] [c]   [d e f]
    basket                          [g]
    rows      0     1     2         3

Events (clicks and carts too) with the same time are one order. Shorter sequences are padded at the end.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.embeddings import gather_rows
from models.jagged import segment_offsets
from models.retrieval.recent_events import known_basket_lines, latest_events
from models.schema import Query


class OrderRows(NamedTuple):
    """The places of n events of B checkouts in the padded matrix [B, T] of their orders.

    Rows of a checkout rise with time. The last row that a checkout fills is its basket, even if no item of
    the basket is known.
    """

    event: Tensor  # [n] int64, position p in the flat history; -1 - p for position p in the flat basket
    cell: Tensor  # [n] int64, checkout * T + row
    ts: Tensor  # [B, T] int64, Unix seconds; of padding: the time of the checkout
    last: Tensor  # [B] int64, the row of the basket


class OrderSequence(NamedTuple):
    """Orders of B checkouts; padding is zero."""

    items: Tensor  # [B, T, D] float32, sum of the item vectors
    lines: Tensor  # [B, T] float32, number of known items
    purchases: Tensor  # [B, T] float32, number of bought items (not clicked, not put into a cart)
    ts: Tensor  # [B, T] int64, Unix seconds; of padding: the time of the checkout
    last: Tensor  # [B] int64, the row of the basket


def order_rows(query: Query, max_events: int, max_orders: int) -> OrderRows:
    """The latest `max_orders` orders, the basket included, among the latest `max_events` events."""
    n_checkouts = query.ts.numel()
    event, checkout = latest_events(query, max_events)
    ts = query.history_ts.index_select(0, event)
    starts = torch.ones_like(checkout, dtype=torch.bool)  # [n], the event starts an order
    starts[1:] = (checkout[1:] != checkout[:-1]) | (ts[1:] != ts[:-1])
    order = starts.to(torch.int64).cumsum(0) - 1  # [n]
    first = starts.nonzero()[:, 0]
    order_checkout, order_ts = checkout.index_select(0, first), ts.index_select(0, first)
    offsets = segment_offsets(order_checkout, n_checkouts)
    n_orders = offsets[1:] - offsets[:-1]  # [B]
    skipped = (n_orders - (max_orders - 1)).clamp_min(0)
    last = n_orders - skipped
    width = int(last.max()) + 1 if n_checkouts > 0 else 1
    index = torch.arange(order_ts.numel(), device=ts.device)
    row = index - (offsets[:-1] + skipped).index_select(0, order_checkout)  # of each order, < 0 for skipped
    kept = (row >= 0).nonzero()[:, 0]
    order_cell = order_checkout * width + row
    times = query.ts.unsqueeze(1).repeat(1, width).flatten()
    times = times.index_copy(0, order_cell.index_select(0, kept), order_ts.index_select(0, kept))
    line, line_checkout = known_basket_lines(query)
    is_kept = (row.index_select(0, order) >= 0).nonzero()[:, 0]
    return OrderRows(
        event=torch.cat([event.index_select(0, is_kept), -1 - line]),
        cell=torch.cat(
            [
                order_cell.index_select(0, order.index_select(0, is_kept)),
                line_checkout * width + last.index_select(0, line_checkout),
            ]
        ),
        ts=times.view(n_checkouts, width),
        last=last,
    )


def order_sequence(
    query: Query, vectors: Tensor, history: Tensor, basket: Tensor, max_events: int, max_orders: int
) -> OrderSequence:
    """The latest `max_orders` orders among the latest `max_events` events.

    `history` [ΣH] and `basket` [ΣK] are the rows of `vectors` (models/retrieval/query_encoder.py).
    """
    rows = order_rows(query, max_events, max_orders)
    n_checkouts, width = rows.ts.shape
    in_history = rows.event >= 0
    vector_row = torch.where(
        in_history,
        _select_or_zero(history, rows.event.clamp_min(0)),
        _select_or_zero(basket, (-1 - rows.event).clamp_min(0)),
    )
    kind = _select_or_zero(query.history_kind, rows.event.clamp_min(0))
    bought = (~in_history | (kind == 0)).to(torch.float32)  # 0: a purchase, first of HISTORY_KINDS
    values = gather_rows(vectors, vector_row)  # [n, D]
    items = values.new_zeros([n_checkouts * width, values.shape[1]]).index_add_(0, rows.cell, values)
    zeros = torch.zeros([n_checkouts * width], dtype=torch.float32, device=values.device)
    return OrderSequence(
        items=items.view(n_checkouts, width, values.shape[1]),
        lines=zeros.index_add(0, rows.cell, torch.ones_like(bought)).view(n_checkouts, width),
        purchases=zeros.index_add(0, rows.cell, bought).view(n_checkouts, width),
        ts=rows.ts,
        last=rows.last,
    )


def groups_by_length(last: Tensor) -> list[Tensor]:
    """Groups checkouts of similar length. A group holds the positions [n] of its checkouts in `last` [B].

    Each group is padded to its longest sequence. In one group, a few long sequences would lengthen all
    others.
    """
    order, count = last.argsort(), last.numel()
    ends = [count // 2, count * 3 // 4, count * 9 // 10]
    return [group for group in order.tensor_split(ends) if group.numel() > 0]


def select_checkouts(sequence: OrderSequence, checkouts: Tensor) -> OrderSequence:
    """Selects the sequences of some checkouts [n], padded to the longest of them."""
    width = int(sequence.last[checkouts].max()) + 1
    return OrderSequence(
        sequence.items[checkouts, :width],
        sequence.lines[checkouts, :width],
        sequence.purchases[checkouts, :width],
        sequence.ts[checkouts, :width],
        sequence.last[checkouts],
    )


def _select_or_zero(values: Tensor, index: Tensor) -> Tensor:
    """Returns values[index], or zeros if `values` is empty."""
    return values.index_select(0, index) if values.numel() > 0 else torch.zeros_like(index)
