"""Sources that count a user's own events: `buy_again` (purchases) and `recency` (clicks and carts)."""

import torch
from torch import Tensor

from models.jagged import segment_ids, sum_by_key
from models.schema import Query, seconds_to_days


def decayed_item_counts(
    query: Query, basket_keys: Tensor, decay_rates: Tensor, new_item_mask: Tensor, n_items: int
) -> tuple[Tensor, Tensor]:
    """Rising keys [U] of the user's purchased (source 0) and viewed (source 1) items, and their counts [U].

    An event counts 2^(age · rate); basket lines count as purchases of age zero. Views of new items do not
    count, because `recency` proposes these to everyone.

    Args:
        basket_keys: [ΣK] key of item 0 of each basket line's checkout.
        decay_rates: [kinds] -1 / half-life in days, by history kind.
        new_item_mask: [N+1] bool.
    """
    checkout = segment_ids(query.history_offsets)  # [ΣH]
    age = seconds_to_days((query.ts.index_select(0, checkout) - query.history_ts).clamp_min(0))
    viewed = query.history_kind != 0
    kept = (~(viewed & new_item_mask.index_select(0, query.history_item))).nonzero().squeeze(1)
    key = (viewed * query.ts.numel() + checkout) * n_items + query.history_item
    weight = torch.exp2(age * decay_rates.index_select(0, query.history_kind))
    return sum_by_key(
        torch.cat([key.index_select(0, kept), basket_keys + query.basket_item]),
        torch.cat([weight.index_select(0, kept), torch.ones_like(query.basket_price)]),
    )
