"""What an encoder reads of a query: the latest events and the lines just paid, as one jagged sequence."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids, segment_offsets
from models.schema import HISTORY_KINDS, Query, seconds_to_days

BASKET_KIND = len(HISTORY_KINDS)  # the kind of a line just paid, behind those of the history
N_EVENT_FEATURES = 3 + BASKET_KIND + 1  # columns of Events.facts


class EventSequence(NamedTuple):
    """n events of B checkouts: by checkout, oldest first, the lines just paid last."""

    checkout: Tensor  # [n] int64, ascending
    vector_row: Tensor  # [n] int64, where the event's item vector stands
    age: Tensor  # [n] float32, days
    features: Tensor  # [n, EVENT_FACTS] float32: log age, log quantity, log price, one-hot kind


def mask_users(query: Query, user_mask: Tensor) -> Query:
    """The same checkouts, those that are `hidden` [B] bool by users of whom nothing is known.

    No history, and every profile code unknown; basket and context stay.
    """
    checkout = segment_ids(query.history_offsets)
    kept = ~user_mask[checkout]
    return query._replace(
        history_offsets=segment_offsets(checkout[kept], query.ts.numel()),
        history_item=query.history_item[kept],
        history_ts=query.history_ts[kept],
        history_kind=query.history_kind[kept],
        history_quantity=query.history_quantity[kept],
        history_price=query.history_price[kept],
        profile=query.profile.masked_fill(user_mask.unsqueeze(1), 0),
    )


def latest_events(query: Query, limit: int) -> tuple[Tensor, Tensor]:
    """Each checkout's latest `limit` events: positions in the flat history [n] and their checkouts [n].

    What is dated after the checkout does not exist. An unknown item takes its place among the latest but is
    left out, because it says nothing.
    """
    checkout = segment_ids(query.history_offsets)  # [ΣH]
    position = (query.history_ts <= query.ts.index_select(0, checkout)).nonzero()[:, 0]
    checkout = checkout.index_select(0, position)
    ends = segment_offsets(checkout, query.ts.numel())[1:]  # [B]
    place = torch.arange(position.numel(), device=position.device)
    latest = ends.index_select(0, checkout) - place <= limit
    kept = (latest & (query.history_item.index_select(0, position) > 0)).nonzero()[:, 0]
    return position.index_select(0, kept), checkout.index_select(0, kept)


def known_basket_lines(query: Query) -> tuple[Tensor, Tensor]:
    """The lines just paid whose item is known: positions in the flat basket [n] and their checkouts [n]."""
    position = (query.basket_item > 0).nonzero()[:, 0]
    return position, segment_ids(query.basket_offsets).index_select(0, position)


def event_sequence(
    query: Query, history: Tensor, basket: Tensor, limit: int, basket_kind: int
) -> EventSequence:
    """The latest `limit` events and the basket, joined.

    `history` [ΣH] and `basket` [ΣK] say where the item vector of each event and line stands; `paid_kind` is
    PAID (TorchScript reads no constants of a module).
    """
    past, past_checkout = latest_events(query, limit)
    line, line_checkout = known_basket_lines(query)
    checkout = torch.cat([past_checkout, line_checkout])
    order = torch.argsort(checkout, stable=True)
    age = seconds_to_days(query.ts[past_checkout] - query.history_ts[past])
    age = torch.cat([age, torch.zeros_like(query.basket_price[line])])
    kind = torch.cat([query.history_kind[past], torch.full_like(line, basket_kind)])
    quantity = torch.cat([query.history_quantity[past], query.basket_quantity[line]])
    price = torch.cat([query.history_price[past], query.basket_price[line]])
    kinds = torch.arange(basket_kind + 1, device=kind.device)
    facts = torch.cat(
        [
            torch.stack([torch.log1p(age), torch.log1p(quantity), torch.log1p(price)], dim=1),
            (kind.unsqueeze(1) == kinds).to(age.dtype),
        ],
        dim=1,
    )
    row = torch.cat([history[past], basket[line]])
    return EventSequence(checkout[order], row[order], age[order], facts[order])
