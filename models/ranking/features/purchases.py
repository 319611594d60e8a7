"""A user's purchases in time order, grouped by (checkout, id).

purchases of one user      milk   milk bread         milk            (basket) bread
age in days                30     23   23             9               0
trips ago                  3      2    2              1               0
                           └─ gap 7 ┘─── gap 14 ──────┘── age 9 ──────▶ checkout
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids
from models.schema import Query


class Purchases(NamedTuple):
    """P lines bought before B checkouts and in their baskets, oldest first.

    The functions of this package rely on this order. Histories are sorted (models.schema.Query).
    """

    checkout: Tensor  # [P] int64
    item: Tensor  # [P] int64
    age_days: Tensor  # [P] float32, days before the checkout, 0 for the basket
    trips_ago: Tensor  # [P] float32, visits between the line and the checkout; 0 for the latest visit
    in_basket: Tensor  # [P] float32, 1 for a basket line
    quantity: Tensor  # [P] float32
    spend: Tensor  # [P] float32, in units of money
    new_trip: Tensor  # [P] bool, the first line of its visit
    tenure_days: Tensor  # [B] float32, days since the user's first known purchase


def collect_purchases(
    query: Query, event_checkout: Tensor, event_age: Tensor, money_unit: Tensor
) -> Purchases:
    """The purchases of the users of B checkouts, their baskets last.

    `event_checkout` [ΣH] is the checkout of each event, and `event_age` [ΣH] the days from the event to the
    checkout. `money_unit` [B] is the unit of money at each checkout.
    """
    bought = (query.history_kind == 0).nonzero()[:, 0]
    basket_checkout = segment_ids(query.basket_offsets)
    checkout = torch.cat([event_checkout.index_select(0, bought), basket_checkout])
    checkout, order = checkout.sort(stable=True)  # each basket after its own history
    basket_ts = query.ts.index_select(0, basket_checkout)
    ts = merge_history_and_basket(query.history_ts, basket_ts, bought, order)
    price = merge_history_and_basket(query.history_price, query.basket_price, bought, order)
    quantity = merge_history_and_basket(query.history_quantity, query.basket_quantity, bought, order)
    age = merge_history_and_basket(event_age, torch.zeros_like(query.basket_price), bought, order)
    new_trip = run_starts(checkout) | run_starts(ts)
    trip = new_trip.to(torch.int64).cumsum(0)
    n_checkouts = query.ts.numel()
    latest_trip = torch.zeros_like(query.ts).scatter_reduce(0, checkout, trip, "amax")
    return Purchases(
        checkout=checkout,
        item=merge_history_and_basket(query.history_item, query.basket_item, bought, order),
        age_days=age,
        trips_ago=(latest_trip.index_select(0, checkout) - trip).to(torch.float32),
        in_basket=(order >= bought.numel()).to(torch.float32),
        quantity=quantity,
        spend=quantity * price / money_unit.index_select(0, checkout),
        new_trip=new_trip,
        tenure_days=torch.zeros([n_checkouts], device=age.device).scatter_reduce(0, checkout, age, "amax"),
    )


def merge_history_and_basket(history: Tensor, basket: Tensor, bought: Tensor, order: Tensor) -> Tensor:
    """Joins the `bought` events [n] of a history column [ΣH] with a basket column [ΣK].

    The result is in `order` [n + ΣK].
    """
    return torch.cat([history.index_select(0, bought), basket]).index_select(0, order)


def run_starts(values: Tensor) -> Tensor:
    """Whether a value [n] starts a run of equal values: bool [n]."""
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[1:] = values[1:] != values[:-1]
    return starts


class PurchaseGroups(NamedTuple):
    """n purchases grouped by (checkout, id) pair, oldest first within each of U pairs."""

    order: Tensor  # [n] int64, positions of the purchases, pair by pair
    keys: Tensor  # [U] int64, the keys of the pairs, rising
    group_ids: Tensor  # [n] int64, the pair of each purchase of `order`
    min_age: Tensor  # [U] float32, days since the latest purchase
    max_age: Tensor  # [U] float32, days since the first


def group_purchases(key: Tensor, age: Tensor) -> PurchaseGroups:
    """Group purchases by `key` [n], oldest first. `age` [n] is in days."""
    sorted_key, order = key.sort(stable=True)
    starts = run_starts(sorted_key)
    group_ids = starts.to(torch.int64).cumsum(0) - 1
    first = starts.nonzero()[:, 0]
    last = torch.cat([first[1:], torch.full_like(first[:1], sorted_key.numel())]) - 1
    age = age.index_select(0, order)
    return PurchaseGroups(
        order,
        sorted_key.index_select(0, first),
        group_ids,
        age.index_select(0, last),
        age.index_select(0, first),
    )
