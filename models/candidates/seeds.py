"""Seeds of list sources, and the sums of the seeds' lists.

A seed is a row of the concatenated lists, which one checkout reads with a weight. The score of an item is the
sum of weight · list score over the seeds of its source and checkout.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.candidates.keys import SourceRanking
from models.candidates.source import BasketCategories, BasketItems, OwnItems, RecentItems
from models.jagged import gather_segments, segment_ids, sum_by_key


class SeedInputs(NamedTuple):
    """The inputs of all seeds, for B checkouts."""

    basket_item: Tensor  # [ΣK]
    basket_keys: Tensor  # [ΣK] int64, key of item 0 of each basket line's checkout
    basket_weight: Tensor  # [ΣK] float32
    leaf: Tensor  # [N+1] int64, leaf category by item
    history_offsets: Tensor  # [B+1] int64
    history_item: Tensor  # [ΣH] int64, oldest first
    history_ts: Tensor  # [ΣH] int64
    history_kind: Tensor  # [ΣH] int64
    own_items: SourceRanking
    n_items: int
    source_stride: int  # number of keys of a source


class ListSeeds(NamedTuple):
    """n rows of the concatenated lists that a source reads."""

    row: Tensor  # [n] int64
    base_key: Tensor  # [n] int64, key of item 0 of the seed's source and checkout
    weight: Tensor  # [n] float32


class BasketItemSeeds(nn.Module):
    """The basket's items.

    `position` is the source's position in keys, `first_row` the first row of its lists.
    """

    def __init__(self, position: int, first_row: int) -> None:
        super().__init__()
        self.position, self.first_row = position, first_row

    def forward(self, inputs: SeedInputs) -> ListSeeds:
        """Returns a seed per basket line."""
        row = inputs.basket_item if self.first_row == 0 else self.first_row + inputs.basket_item
        return ListSeeds(row, inputs.basket_keys + self.position * inputs.source_stride, inputs.basket_weight)


class BasketCategorySeeds(nn.Module):
    """The leaf categories of the basket's items. The arguments are those of `BasketItemSeeds`."""

    def __init__(self, position: int, first_row: int) -> None:
        super().__init__()
        self.position, self.first_row = position, first_row

    def forward(self, inputs: SeedInputs) -> ListSeeds:
        """Returns a seed per basket line."""
        row = self.first_row + inputs.leaf.index_select(0, inputs.basket_item)
        return ListSeeds(row, inputs.basket_keys + self.position * inputs.source_stride, inputs.basket_weight)


class OwnItemSeeds(nn.Module):
    """The user's best own items by one ranking, up to `n` per checkout.

    A seed's weight is 1 / √(1 + rank). The weight does not depend on age, so users who order often and users
    who order rarely are treated alike.

    Args (`position`, `first_row`: see `BasketItemSeeds`):
        ranking: position of the ranking.
        n_rankings: number of rankings.
        n: number of seeds.
    """

    n_seed_items: Tensor
    rank_discount: Tensor

    def __init__(self, position: int, first_row: int, ranking: int, n_rankings: int, n: int) -> None:
        super().__init__()
        self.first_row, self.shift = first_row, position - ranking
        by_ranking = [n if position == ranking else 0 for position in range(n_rankings)]
        self.register_buffer("n_seed_items", torch.tensor(by_ranking))
        self.register_buffer("rank_discount", (1.0 + torch.arange(n)).rsqrt())

    def forward(self, inputs: SeedInputs) -> ListSeeds:
        """Returns up to `n` seeds per checkout."""
        own = inputs.own_items
        top = (own.rank < self.n_seed_items.index_select(0, own.source)).nonzero().squeeze(1)
        own_key = own.key.index_select(0, top)
        item = own_key % inputs.n_items
        weight = self.rank_discount.index_select(0, own.rank.index_select(0, top))
        return ListSeeds(self.first_row + item, own_key - item + self.shift * inputs.source_stride, weight)


class RecentItemSeeds(nn.Module):
    """The basket's items and the user's latest purchases are the seeds.

    A basket item has the weight 1. Each later order of the user, the basket included, multiplies the weight
    of a purchase by `decay`.

    Args (`position`, `first_row`: see `BasketItemSeeds`):
        n: number of purchases. Orders are not split: all items of the oldest order are seeds.
        decay: above 0, up to 1.
    """

    def __init__(self, position: int, first_row: int, n: int, decay: float) -> None:
        super().__init__()
        self.position, self.first_row, self.n, self.decay = position, first_row, n, decay

    def forward(self, inputs: SeedInputs) -> ListSeeds:
        """Returns a seed per basket line, and `n` or slightly more seeds per checkout from earlier orders."""
        checkout = segment_ids(inputs.history_offsets)  # [ΣH]
        bought = (inputs.history_kind == 0).nonzero().squeeze(1)
        checkout = checkout.index_select(0, bought)  # [P], rising
        ts = inputs.history_ts.index_select(0, bought)
        # A change of time begins a new order.
        end = torch.searchsorted(checkout, checkout, right=True)  # [P] of the checkout's purchases
        begins = torch.ones_like(checkout)
        begins[1:] = ((ts[1:] != ts[:-1]) | (checkout[1:] != checkout[:-1])).to(checkout.dtype)
        order = begins.cumsum(0)
        orders_after = order.index_select(0, end - 1) - order + 1  # the basket is an order, too
        order_end = torch.searchsorted(order, order, right=True)  # [P], `order` rises
        latest = (end - order_end < self.n).nonzero().squeeze(1)  # whole orders: lines have no order within
        item = inputs.history_item.index_select(0, bought).index_select(0, latest)
        stride = self.position * inputs.source_stride
        base_key = checkout.index_select(0, latest) * inputs.n_items
        decays = torch.full([latest.numel()], self.decay, device=item.device)
        weight = decays.pow(orders_after.index_select(0, latest))
        return ListSeeds(
            self.first_row + torch.cat([inputs.basket_item, item]),
            torch.cat([inputs.basket_keys, base_key]) + stride,
            torch.cat([inputs.basket_weight, weight]),
        )


def sum_lists(
    offsets: Tensor, items: Tensor, scores: Tensor, row: Tensor, base_key: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Sums the list scores of the seeds' lists by item. Returns rising keys [U] and weighted sums [U].

    `row`, `base_key` and `weight` [n] are the seeds of all sources (`ListSeeds`).
    """
    position, seed, _ = gather_segments(offsets, row)
    return sum_by_key(
        base_key.index_select(0, seed) + items.index_select(0, position),
        scores.index_select(0, position) * weight.index_select(0, seed),
    )


def build_seeds(
    seeds: BasketItems | BasketCategories | OwnItems | RecentItems,
    position: int,
    first_row: int,
    rankings: Mapping[str, int],
) -> nn.Module:
    """Builds the module that gives a source's seeds.

    Args:
        seeds: the kind of the source's seeds, with its settings.
        position: position of the source in keys.
        first_row: first row of the source's lists.
        rankings: source with own events → its position in keys.
    """
    if isinstance(seeds, OwnItems):
        return OwnItemSeeds(position, first_row, rankings[seeds.events], len(rankings), seeds.n)
    if isinstance(seeds, RecentItems):
        return RecentItemSeeds(position, first_row, seeds.n, seeds.decay)
    return (BasketItemSeeds if isinstance(seeds, BasketItems) else BasketCategorySeeds)(position, first_row)
