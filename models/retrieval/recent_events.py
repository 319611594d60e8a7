"""A query's latest events and basket lines as one jagged sequence, which sequence encoders read."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids, segment_offsets
from models.schema import HISTORY_KINDS, Query, seconds_to_days

BASKET_KIND = len(HISTORY_KINDS)  # kind of a basket line; it follows the kinds of the history
N_EVENT_FEATURES = 3 + BASKET_KIND + 1  # columns of EventSequence.features


class EventSequence(NamedTuple):
    """n events of B checkouts: by checkout, oldest first, the basket last."""

    checkout: Tensor  # [n] int64, ascending
    vector_row: Tensor  # [n] int64, row of the event's item vector
    age: Tensor  # [n] float32, days
    features: Tensor  # [n, N_EVENT_FEATURES] float32: log age, log quantity, log price, one-hot kind


def mask_users(query: Query, user_mask: Tensor) -> Query:
    """The same checkouts with unknown users where `user_mask` [B] is True.

    They have no history and unknown profile codes; basket and context stay.
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

    Events after the checkout are ignored. Events of unknown items count towards `limit` but are left out.
    """
    checkout = segment_ids(query.history_offsets)  # [ΣH]
    position = (query.history_ts <= query.ts.index_select(0, checkout)).nonzero()[:, 0]
    checkout = checkout.index_select(0, position)
    ends = segment_offsets(checkout, query.ts.numel())[1:]  # [B]
    index = torch.arange(position.numel(), device=position.device)
    is_latest = ends.index_select(0, checkout) - index <= limit
    kept = (is_latest & (query.history_item.index_select(0, position) > 0)).nonzero()[:, 0]
    return position.index_select(0, kept), checkout.index_select(0, kept)


def known_basket_lines(query: Query) -> tuple[Tensor, Tensor]:
    """Basket lines whose item is known: positions in the flat basket [n] and their checkouts [n]."""
    position = (query.basket_item > 0).nonzero()[:, 0]
    return position, segment_ids(query.basket_offsets).index_select(0, position)


def event_sequence(
    query: Query, history: Tensor, basket: Tensor, limit: int, basket_kind: int
) -> EventSequence:
    """The latest `limit` events, then the basket.

    `history` [ΣH] and `basket` [ΣK] are the rows of the item vectors. `basket_kind` is BASKET_KIND
    (TorchScript reads no module constants).
    """
    event, event_checkout = latest_events(query, limit)
    line, line_checkout = known_basket_lines(query)
    checkout = torch.cat([event_checkout, line_checkout])
    order = torch.argsort(checkout, stable=True)
    age = seconds_to_days(query.ts[event_checkout] - query.history_ts[event])
    age = torch.cat([age, torch.zeros_like(query.basket_price[line])])
    kind = torch.cat([query.history_kind[event], torch.full_like(line, basket_kind)])
    quantity = torch.cat([query.history_quantity[event], query.basket_quantity[line]])
    price = torch.cat([query.history_price[event], query.basket_price[line]])
    kinds = torch.arange(basket_kind + 1, device=kind.device)
    features = torch.cat(
        [
            torch.stack([torch.log1p(age), torch.log1p(quantity), torch.log1p(price)], dim=1),
            (kind.unsqueeze(1) == kinds).to(age.dtype),
        ],
        dim=1,
    )
    row = torch.cat([history[event], basket[line]])
    return EventSequence(checkout[order], row[order], age[order], features[order])
