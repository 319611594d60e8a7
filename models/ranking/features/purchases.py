"""A user's purchases in time order, and how regularly those of one item or category return.

purchases of one user      milk   milk bread         milk            (basket) bread
age in days                30     23   23             9               0
trips ago                  3      2    2              1               0
                           └─ gap 7 ┘─── gap 14 ──────┘── age 9 ──────▶ now
"""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_ids, segment_sum
from models.schema import Query


class Purchases(NamedTuple):
    """Lines bought before B checkouts and in their baskets, oldest first; P lines in all.

    Histories come oldest first (models.schema.Query), which everything here relies on.
    """

    segment: Tensor  # [P] int64, which checkout
    item: Tensor  # [P] int64
    age_days: Tensor  # [P] float32, days before the checkout, 0 for the basket
    trips_ago: Tensor  # [P] float32, visits between then and the checkout, whose own lines have 0
    in_basket: Tensor  # [P] float32, 1 for a line of the basket just paid
    quantity: Tensor  # [P] float32
    spend: Tensor  # [P] float32
    new_trip: Tensor  # [P] bool, the first line of its visit
    tenure_days: Tensor  # [B] float32, days since the user's first known purchase


def collect_purchases(query: Query, history: Tensor, age: Tensor) -> Purchases:
    """What the users of B checkouts bought, their baskets last; `history` [ΣH] is the checkout of each event
    and `age` [ΣH] its days before it."""
    kept = (query.history_kind == 0).nonzero()[:, 0]
    paid = segment_ids(query.basket_offsets)
    segment = torch.cat([history.index_select(0, kept), paid])
    segment, order = segment.sort(stable=True)  # each basket behind its own history
    ts = merge_history_and_basket(query.history_ts, query.ts.index_select(0, paid), kept, order)
    price = merge_history_and_basket(query.history_price, query.basket_price, kept, order)
    quantity = merge_history_and_basket(query.history_quantity, query.basket_quantity, kept, order)
    age = merge_history_and_basket(age, torch.zeros_like(query.basket_price), kept, order)
    new_trip = run_starts(segment) | run_starts(ts)
    trip = new_trip.to(torch.int64).cumsum(0)
    count = query.ts.numel()
    latest = torch.zeros_like(query.ts).scatter_reduce(0, segment, trip, "amax")
    return Purchases(
        segment=segment,
        item=merge_history_and_basket(query.history_item, query.basket_item, kept, order),
        age_days=age,
        trips_ago=(latest.index_select(0, segment) - trip).to(torch.float32),
        in_basket=(order >= kept.numel()).to(torch.float32),
        quantity=quantity,
        spend=quantity * price,
        new_trip=new_trip,
        tenure_days=torch.zeros([count], device=age.device).scatter_reduce(0, segment, age, "amax"),
    )


def merge_history_and_basket(of_history: Tensor, of_basket: Tensor, kept: Tensor, order: Tensor) -> Tensor:
    """The `kept` events [n] of a column [ΣH] and a column of the baskets [ΣK], in `order` [n + ΣK]."""
    return torch.cat([of_history.index_select(0, kept), of_basket]).index_select(0, order)


def run_starts(values: Tensor) -> Tensor:
    """Where a run of equal values begins: [n] to bool [n]."""
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return first


class PurchaseGroups(NamedTuple):
    """Purchases of the same (checkout, id) pair side by side, still oldest first; U pairs."""

    order: Tensor  # [n] int64, positions of the keys, pair by pair
    keys: Tensor  # [U] int64, the keys of the pairs, rising
    group_ids: Tensor  # [n] int64, which pair, of the keys in `order`
    min_age: Tensor  # [U] float32, days since the latest of them
    max_age: Tensor  # [U] float32


def group_purchases(key: Tensor, age: Tensor) -> PurchaseGroups:
    """Group purchases, oldest first, by `key` [n] = segment * ids + id; `age` [n] in days."""
    ordered, order = key.sort(stable=True)
    first = run_starts(ordered)
    owner = first.to(torch.int64).cumsum(0) - 1
    begin = first.nonzero()[:, 0]
    end = torch.cat([begin[1:], torch.full_like(begin[:1], ordered.numel())]) - 1
    age = age.index_select(0, order)
    return PurchaseGroups(
        order, ordered.index_select(0, begin), owner, age.index_select(0, end), age.index_select(0, begin)
    )


# What `rhythm` tells of a pair, in this order.
REPURCHASE_FEATURES = [
    "trips", "last_trip", "trips_decayed_8", "trips_decayed_32", "trips_28d", "trips_112d", "coverage",
    "recent_coverage", "returns", "due_returns", "gap_spread",
]  # fmt: skip


def repurchase_features(
    bought: Purchases, order: Tensor, group_ids: Tensor, min_age: Tensor, horizon_days: float
) -> Tensor:
    """How often and how regularly each of U pairs was bought: [U, len(RHYTHM)], raw counts and days.

    `order` [n] holds positions of purchases and `owner` [n] their pairs, as in Groups; `youngest` is [U].

    A pair's past answers the question that its label asks of the future. Walking through the user's known
    time, "was it bought within the next `horizon` days?" is true for min(gap, horizon) days before every
    purchase:

        coverage         days for which it was true; recent_coverage halves their weight every 60 days
        returns          share of gaps within the horizon
        due_returns      share of the gaps that lasted as long as the present one and then ended within
                         the horizon: the hazard of returning now. Both are shrunk towards 0.2.
    """
    pairs = min_age.numel()
    age, ago = bought.age_days.index_select(0, order), bought.trips_ago.index_select(0, order)
    begins = run_starts(group_ids)
    trip = (begins | run_starts(ago)).to(age.dtype)  # a visit counts once, however many lines it had
    start = bought.tenure_days.index_select(0, bought.segment.index_select(0, order))
    before = torch.where(begins, start, age.roll(1))
    gap = before - age  # the first one from the user's first known purchase
    again = (~begins).to(age.dtype) * trip
    present = min_age.index_select(0, group_ids)
    lasted = again * (gap > present).to(age.dtype)
    ended = lasted * (gap <= present + horizon_days).to(age.dtype)
    covered = gap.clamp_max(horizon_days)
    facts = [
        trip, trip * torch.exp2(-ago / 8), trip * torch.exp2(-ago / 32), trip * (age <= 28),
        trip * (age <= 112), covered, covered * torch.exp2(-age / 60), again,
        again * (gap <= horizon_days), lasted, ended, again * gap, again * gap * gap,
    ]  # fmt: skip
    total = segment_sum(torch.stack(facts).t().contiguous(), group_ids, pairs).t().contiguous()  # [13, U]
    last_trip = torch.full([pairs], 1e9, device=age.device).scatter_reduce(0, group_ids, ago, "amin")
    gaps = total[7].clamp_min(1)
    mean_gap = total[11] / gaps
    spread = (total[12] / gaps - mean_gap * mean_gap).clamp_min(0).sqrt()
    told = [
        total[0], last_trip, total[1], total[2], total[3], total[4], total[5], total[6],
        (total[8] + 0.4) / (total[7] + 2), (total[10] + 0.4) / (total[9] + 2), spread / (mean_gap + 1),
    ]  # fmt: skip
    return torch.stack(told).t().contiguous()
