"""A user's purchases in time order, and how regularly those of one item or category return.

purchases of one user      milk   milk bread         milk            (basket) bread
age in days                30     23   23             9               0
trips ago                  3      2    2              1               0
                           └─ gap 7 ┘─── gap 14 ──────┘── age 9 ──────▶ now
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.inputs import Query, days
from models.jagged import segment_ids


class Purchases(NamedTuple):
    """Lines bought before B checkouts and in their baskets, oldest first; P lines in all.

    Histories come oldest first (models.inputs.Query), which everything here relies on.
    """

    segment: Tensor  # [P] int64, which checkout
    item: Tensor  # [P] int64
    age: Tensor  # [P] float32, days before the checkout, 0 for the basket
    trips_ago: Tensor  # [P] float32, visits between then and the checkout, whose own lines have 0
    in_basket: Tensor  # [P] float32, 1 for a line of the basket just paid
    quantity: Tensor  # [P] float32
    spend: Tensor  # [P] float32
    new_trip: Tensor  # [P] bool, the first line of its visit
    span: Tensor  # [B] float32, days since the user's first known purchase


def purchases(query: Query) -> Purchases:
    """What the users of B checkouts bought, their baskets last."""
    bought = query.history_kind == 0
    history = segment_ids(query.history_offsets)[bought]
    paid = segment_ids(query.basket_offsets)
    segment = torch.cat([history, paid])
    order = torch.argsort(segment, stable=True)  # each basket behind its own history
    segment = segment[order]
    ts = torch.cat([query.history_ts[bought], query.ts[paid]])[order]
    price = torch.cat([query.history_price[bought], query.basket_price])
    quantity = torch.cat([query.history_quantity[bought], query.basket_quantity])
    in_basket = torch.cat([torch.zeros_like(history), torch.ones_like(paid)])
    age = days((query.ts[segment] - ts).clamp_min(0))
    new_trip = starts(segment) | starts(ts)
    trip = new_trip.to(torch.int64).cumsum(0)
    count = query.ts.numel()
    latest = torch.zeros_like(query.ts).scatter_reduce(0, segment, trip, "amax")
    return Purchases(
        segment=segment,
        item=torch.cat([query.history_item[bought], query.basket_item])[order],
        age=age,
        trips_ago=(latest[segment] - trip).to(torch.float32),
        in_basket=in_basket[order].to(torch.float32),
        quantity=quantity[order],
        spend=(quantity * price)[order],
        new_trip=new_trip,
        span=torch.zeros([count], device=age.device).scatter_reduce(0, segment, age, "amax"),
    )


def starts(values: Tensor) -> Tensor:
    """Where a run of equal values begins: [n] to bool [n]."""
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return first


class Groups(NamedTuple):
    """Purchases of the same (checkout, id) pair side by side, still oldest first; U pairs."""

    order: Tensor  # [P] int64, positions of the purchases, pair by pair
    unique: Tensor  # [U] int64, the keys of the pairs, rising
    owner: Tensor  # [P] int64, which pair, of the purchases in `order`
    youngest: Tensor  # [U] float32, days since the latest of them
    oldest: Tensor  # [U] float32


def group(bought: Purchases, key: Tensor) -> Groups:
    """Group purchases by `key` [P] = segment * ids + id."""
    order = torch.argsort(key, stable=True)
    ordered = key[order]
    first = starts(ordered)
    owner = first.to(torch.int64).cumsum(0) - 1
    begin = first.nonzero()[:, 0]
    end = torch.cat([begin[1:], torch.full_like(begin[:1], ordered.numel())]) - 1
    age = bought.age[order]
    return Groups(order, ordered[begin], owner, age[end], age[begin])


# What `rhythm` tells of a pair, in this order.
RHYTHM = [
    "trips", "last_trip", "trips_decayed_8", "trips_decayed_32", "trips_28d", "trips_112d", "coverage",
    "recent_coverage", "returns", "due_returns", "gap_spread",
]  # fmt: skip


def rhythm(bought: Purchases, groups: Groups, horizon: float) -> Tensor:
    """How often and how regularly each pair was bought: [U, len(RHYTHM)], raw counts and days.

    A pair's past answers the question that its label asks of the future. Walking through the user's known
    time, "was it bought within the next `horizon` days?" is true for min(gap, horizon) days before every
    purchase:

        coverage         days for which it was true; recent_coverage halves their weight every 60 days
        returns          share of gaps within the horizon
        due_returns      share of the gaps that lasted as long as the present one and then ended within
                         the horizon: the hazard of returning now. Both are shrunk towards 0.2.
    """
    pairs = groups.unique.numel()
    age, owner = bought.age[groups.order], groups.owner
    ago = bought.trips_ago[groups.order]
    begins = starts(owner)
    trip = (begins | starts(ago)).to(age.dtype)  # a visit counts once, however many lines it had
    start = bought.span[bought.segment[groups.order]]
    before = torch.where(begins, start, age.roll(1))
    gap = before - age  # the first one from the user's first known purchase
    again = (~begins).to(age.dtype) * trip
    lasted = again * (gap > groups.youngest[owner]).to(age.dtype)
    ended = lasted * (gap <= groups.youngest[owner] + horizon).to(age.dtype)
    covered = gap.clamp_max(horizon)
    columns = torch.stack(
        [
            trip, trip * torch.exp2(-ago / 8), trip * torch.exp2(-ago / 32), trip * (age <= 28),
            trip * (age <= 112), covered, covered * torch.exp2(-age / 60), again,
            again * (gap <= horizon), lasted, ended, again * gap, again * gap * gap,
        ],
        dim=1,
    )  # fmt: skip
    total = torch.zeros([pairs, columns.shape[1]], device=age.device).index_add_(0, owner, columns)
    last_trip = torch.full([pairs], 1e9, device=age.device).scatter_reduce(0, owner, ago, "amin")
    mean_gap = total[:, 11] / total[:, 7].clamp_min(1)
    spread = (total[:, 12] / total[:, 7].clamp_min(1) - mean_gap * mean_gap).clamp_min(0).sqrt()
    return torch.stack(
        [
            total[:, 0], last_trip, total[:, 1], total[:, 2], total[:, 3], total[:, 4], total[:, 5],
            total[:, 6], (total[:, 8] + 0.4) / (total[:, 7] + 2), (total[:, 10] + 0.4) / (total[:, 9] + 2),
            spread / (mean_gap + 1),
        ],
        dim=1,
    )  # fmt: skip
