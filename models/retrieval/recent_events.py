"""A query's latest events and basket lines, which query encoders read."""

import torch
from torch import Tensor

from models.jagged import segment_ids, segment_offsets
from models.schema import Query


def mask_users(query: Query, user_mask: Tensor) -> Query:
    """Hide the users of the checkouts for which `user_mask` [B] is True.

    These checkouts lose their history, and their profile codes become unknown. Basket and context stay.
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


def hide_profiles(query: Query, user_mask: Tensor) -> Query:
    """Make the profile codes unknown for the checkouts for which `user_mask` [B] is True."""
    return query._replace(profile=query.profile.masked_fill(user_mask.unsqueeze(1), 0))


def latest_events(query: Query, limit: int) -> tuple[Tensor, Tensor]:
    """Finds each checkout's latest `limit` events: positions in the flat history [n], checkouts [n].

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
    """Finds the basket lines whose item is known: positions in the flat basket [n], checkouts [n]."""
    position = (query.basket_item > 0).nonzero()[:, 0]
    return position, segment_ids(query.basket_offsets).index_select(0, position)
