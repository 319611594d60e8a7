"""The items that followed each order of a batch.

They are the positives of retrieval that trains at every order.

    orders of a checkout    o0      o1         o2 (basket)
    targets                 of o1…  of o2…     of the outcomes

"Followed" means within the horizon of the outcomes: in the next order, or within some days. Some orders learn
from a slightly later order in place of the next one, because sparse sequences have few pairs.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from data.io.batches import Batch
from models.jagged import rank_in_segment, segment_ids
from models.retrieval.order_sequence import OrderRows
from models.schema import HISTORY_KINDS

PURCHASE_KIND = HISTORY_KINDS.index("purchase")
MAX_SKIPPED_ORDERS = 2


@dataclass(frozen=True, kw_only=True)
class TargetRule:
    """The purchases that count as having followed an order."""

    horizon: int | None  # seconds; None: the next order
    keep_basket: bool  # whether items of the order itself count too
    limit: int  # targets drawn per order
    skip_share: float = 0.0  # share of the orders that skip the next order, see `_draw_following`


class OrderTargets(NamedTuple):
    """The Q orders of a batch that have a target."""

    cell: Tensor  # [Q] int64, checkout * T + row (models/retrieval/order_sequence.py)
    item: Tensor  # [Q, limit] int64, 0 for none


class OrderLines(NamedTuple):
    """Purchased lines of the orders of a batch, by cell."""

    cell: Tensor  # [n] int64, rising
    item: Tensor  # [n] int64
    ts: Tensor  # [n] int64


def draw_outcomes(batch: Batch, limit: int) -> Tensor:
    """Draws up to `limit` purchases from the outcomes of each checkout: [B, limit] items, 0 for none."""
    bought = batch.outcomes.purchase
    owner, item = segment_ids(batch.outcomes.offsets)[bought], batch.outcomes.item[bought]
    rank = rank_in_segment(owner, torch.rand(owner.shape, device=owner.device))
    kept = rank < limit
    drawn = torch.zeros([batch.query.ts.numel(), limit], dtype=torch.int64, device=item.device)
    drawn[owner[kept], rank[kept]] = item[kept]
    return drawn


def draw_order_targets(batch: Batch, rows: OrderRows, rule: TargetRule) -> OrderTargets:
    """Draws targets of every order of a batch that has targets. The targets of the basket are outcomes."""
    n_checkouts, width = rows.ts.shape
    lines = _purchased_lines(batch, rows)
    cell = torch.unique(rows.cell)  # orders with a known item; baskets without a known item follow below
    is_last = rows.last[cell // width] == cell % width
    drawn = _draw_following(cell[~is_last], lines, rows.ts, rule)
    outcomes = draw_outcomes(batch, rule.limit)
    last_cell = torch.arange(n_checkouts, device=cell.device) * width + rows.last
    cells, items = torch.cat([cell[~is_last], last_cell]), torch.cat([drawn, outcomes])
    kept = (items > 0).any(1)
    return OrderTargets(cells[kept], items[kept])


def _purchased_lines(batch: Batch, rows: OrderRows) -> OrderLines:
    """The purchased lines of the rows' orders, by cell."""
    query, in_history = batch.query, rows.event >= 0
    event, line = rows.event[in_history], -1 - rows.event[~in_history]
    bought = query.history_kind[event] == PURCHASE_KIND
    cell = torch.cat([rows.cell[in_history][bought], rows.cell[~in_history]])
    item = torch.cat([query.history_item[event[bought]], query.basket_item[line]])
    cell, order = cell.sort(stable=True)
    return OrderLines(cell, item[order], rows.ts.flatten()[cell])


def _draw_following(cell: Tensor, lines: OrderLines, ts: Tensor, rule: TargetRule) -> Tensor:
    """Draws up to `limit` lines that follow each order `cell` [Q] inside the horizon: [Q, limit] items.

    If the horizon is the next order, the next order is skipped with probability `skip_share`, in each of
    MAX_SKIPPED_ORDERS rounds.
    """
    if lines.cell.numel() == 0:
        return torch.zeros([cell.numel(), rule.limit], dtype=torch.int64, device=cell.device)
    width, last_line = ts.shape[1], lines.cell.numel() - 1
    start = torch.searchsorted(lines.cell, cell, right=True)
    if rule.horizon is None:
        start, end = _bounds_of_next_order(start, lines)
        for _ in range(MAX_SKIPPED_ORDERS if rule.skip_share > 0 else 0):
            is_skipped = torch.rand(cell.shape, device=cell.device) < rule.skip_share
            start, end = _bounds_of_next_order(torch.where(is_skipped, end, start), lines)
        checkout = lines.cell[start.clamp_max(last_line)] // width
        end = torch.where(checkout == cell // width, end, start)
    else:
        # Times of a checkout, shifted so that two checkouts are further apart than the horizon.
        span = int(ts.max() - ts.min()) + rule.horizon + 1
        time_of = lines.cell // width * span + (lines.ts - ts.min())
        until = cell // width * span + (ts.flatten()[cell] - ts.min()) + rule.horizon
        end = torch.searchsorted(time_of, until, right=True)
    count = (end - start).clamp_min(0).unsqueeze(1)  # [Q, 1]
    draws = torch.minimum(count, torch.full_like(count, rule.limit))
    stratum = torch.arange(rule.limit, device=cell.device)
    share = (stratum + torch.rand([cell.numel(), rule.limit], device=cell.device)) / draws.clamp_min(1)
    position = start.unsqueeze(1) + torch.minimum((share * count).long(), (count - 1).clamp_min(0))
    drawn = lines.item[position.clamp_max(last_line)].masked_fill(stratum >= draws, 0)
    if rule.keep_basket:
        return drawn
    n_items = int(lines.item.max()) + 1
    own = torch.isin(cell.unsqueeze(1) * n_items + drawn, lines.cell * n_items + lines.item)
    return drawn.masked_fill(own, 0)


def _bounds_of_next_order(start: Tensor, lines: OrderLines) -> tuple[Tensor, Tensor]:
    """The first and last position of the order with the line `start` [Q]. Empty past the last line."""
    end = torch.searchsorted(lines.cell, lines.cell[start.clamp_max(lines.cell.numel() - 1)], right=True)
    return start, end
