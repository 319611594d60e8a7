"""The user and the basket: the same features for all candidates of a checkout."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_sum
from models.ranking.features.blocks import PairInputs
from models.ranking.features.purchases import Purchases


class UserTotals(NamedTuple):
    """Sums over the purchases of each of B users, the basket included."""

    lines: Tensor  # [B]
    spend: Tensor  # [B]
    trips: Tensor  # [B]
    trips_14d: Tensor  # [B]
    trips_28d: Tensor  # [B]
    trips_90d: Tensor  # [B]
    basket_lines: Tensor  # [B]
    basket_spend: Tensor  # [B]


def user_totals(purchases: Purchases, n_checkouts: int) -> UserTotals:
    """Sums over each user's purchases."""
    trip, age = purchases.new_trip.to(torch.float32), purchases.age_days
    terms = UserTotals(
        lines=torch.ones_like(trip),
        spend=purchases.spend,
        trips=trip,
        trips_14d=trip * (age <= 14),
        trips_28d=trip * (age <= 28),
        trips_90d=trip * (age <= 90),
        basket_lines=purchases.in_basket,
        basket_spend=purchases.spend * purchases.in_basket,
    )
    totals = segment_sum(torch.stack(terms).t().contiguous(), purchases.checkout, n_checkouts).t()
    lines, spend, trips, trips_14d, trips_28d, trips_90d, basket_lines, basket_spend = totals.unbind(0)
    return UserTotals(lines, spend, trips, trips_14d, trips_28d, trips_90d, basket_lines, basket_spend)


class UserFeatures(NamedTuple):
    """Block: the user and the basket [B], on a log scale."""

    user_lines: Tensor
    user_last_age: Tensor
    user_lines_before: Tensor  # without the basket
    user_spend: Tensor  # per line
    user_trips: Tensor
    user_trips_14d: Tensor
    user_trips_28d: Tensor
    user_trips_90d: Tensor
    user_span: Tensor  # days since the first purchase
    basket_lines: Tensor
    basket_spend: Tensor
    user_basket_lines: Tensor  # per visit


# Features that grow with the log, and the feature that replaces them (FeatureSelection.relative).
GROWING_USER_FEATURES = ("user_lines", "user_lines_before", "user_trips")
RELATIVE_USER_FEATURES = ("user_basket_lines",)


def user_features(
    pairs: PairInputs, purchases: Purchases, totals: UserTotals, mean_spend: Tensor, max_span: float
) -> UserFeatures:
    """The user's counts, before the log.

    `mean_spend` [B] is the spend per line; `max_span` is the upper bound of days.
    """
    return UserFeatures(
        user_lines=totals.lines,
        user_last_age=days_since_last_event(pairs),
        user_lines_before=totals.lines - totals.basket_lines,
        user_spend=mean_spend,
        user_trips=totals.trips,
        user_trips_14d=totals.trips_14d,
        user_trips_28d=totals.trips_28d,
        user_trips_90d=totals.trips_90d,
        user_span=purchases.tenure_days.clamp_max(max_span),
        basket_lines=totals.basket_lines,
        basket_spend=totals.basket_spend,
        user_basket_lines=totals.lines / totals.trips.clamp_min(1),
    )


def days_since_last_event(pairs: PairInputs) -> Tensor:
    """The days [B] since the last event before each checkout. 1,000 for a user without events."""
    none = torch.full([pairs.query.ts.numel()], 1000.0, device=pairs.event_age.device)
    return none.scatter_reduce(0, pairs.event_checkout, pairs.event_age, "amin")
