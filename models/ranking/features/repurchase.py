"""Repurchase features: how often and how regularly a user buys an item or a category."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import segment_sum
from models.ranking.features.purchases import Purchases, run_starts


class RepurchaseFeatures(NamedTuple):
    """Block: repurchases of (checkout, item) or (checkout, category) pairs.

    The features apply the label to the past: on how many days of the known history was "bought within the
    next `horizon_days`" true? The label was true for min(gap, horizon_days) days before every purchase:

        coverage            days for which it is true; recent_coverage halves their weight every 60 days
        repurchase_rate     share of gaps within the horizon
        repurchase_hazard   share of the gaps that lasted as long as the present one and then ended within
                            the horizon: the hazard of a repurchase at the checkout. Both rates are shrunk
                            towards 0.2.
        gap_cv              coefficient of variation of the gaps
    """

    trips: Tensor
    last_trip: Tensor  # trips ago
    trips_decayed_8: Tensor
    trips_decayed_32: Tensor
    trips_28d: Tensor
    trips_112d: Tensor
    coverage: Tensor
    recent_coverage: Tensor
    repurchase_rate: Tensor
    repurchase_hazard: Tensor
    gap_cv: Tensor


def repurchase_features(
    purchases: Purchases, order: Tensor, group_ids: Tensor, min_age: Tensor, horizon_days: float
) -> RepurchaseFeatures:
    """Computes the raw counts and days of U pairs, [U] each.

    `order`, `group_ids` [n] and `min_age` [U] are fields of PurchaseGroups.
    """
    n_pairs = min_age.numel()
    age, trips_ago = purchases.age_days.index_select(0, order), purchases.trips_ago.index_select(0, order)
    starts = run_starts(group_ids)
    trip = (starts | run_starts(trips_ago)).to(age.dtype)  # a visit counts once, with one line or several
    tenure = purchases.tenure_days.index_select(0, purchases.checkout.index_select(0, order))
    previous_age = torch.where(starts, tenure, age.roll(1))
    gap = previous_age - age  # a pair's first gap starts at the user's first known purchase
    is_gap = (~starts).to(age.dtype) * trip
    present = min_age.index_select(0, group_ids)
    lasted = is_gap * (gap > present).to(age.dtype)
    ended = lasted * (gap <= present + horizon_days).to(age.dtype)
    covered = gap.clamp_max(horizon_days)
    terms = [
        trip, trip * torch.exp2(-trips_ago / 8), trip * torch.exp2(-trips_ago / 32), trip * (age <= 28),
        trip * (age <= 112), covered, covered * torch.exp2(-age / 60), is_gap,
        is_gap * (gap <= horizon_days), lasted, ended, is_gap * gap, is_gap * gap * gap,
    ]  # fmt: skip
    totals = segment_sum(torch.stack(terms).t().contiguous(), group_ids, n_pairs).t().contiguous()  # [13, U]
    (
        trips, trips_decayed_8, trips_decayed_32, trips_28d,
        trips_112d, coverage, recent_coverage, n_gaps,
        n_gaps_within_horizon, n_lasted, n_ended, gap_sum, gap_square_sum,
    ) = totals.unbind(0)  # fmt: skip
    last_trip = torch.full([n_pairs], 1e9, device=age.device).scatter_reduce(0, group_ids, trips_ago, "amin")
    n_gaps_or_one = n_gaps.clamp_min(1)
    mean_gap = gap_sum / n_gaps_or_one
    gap_std = (gap_square_sum / n_gaps_or_one - mean_gap * mean_gap).clamp_min(0).sqrt()
    return RepurchaseFeatures(
        trips=trips,
        last_trip=last_trip,
        trips_decayed_8=trips_decayed_8,
        trips_decayed_32=trips_decayed_32,
        trips_28d=trips_28d,
        trips_112d=trips_112d,
        coverage=coverage,
        recent_coverage=recent_coverage,
        repurchase_rate=(n_gaps_within_horizon + 0.4) / (n_gaps + 2),
        repurchase_hazard=(n_ended + 0.4) / (n_lasted + 2),
        gap_cv=gap_std / (mean_gap + 1),
    )


def unstack_repurchase(rows: Tensor) -> RepurchaseFeatures:
    """Builds RepurchaseFeatures from a stack of its fields [11, ...]."""
    (
        trips, last_trip, trips_decayed_8, trips_decayed_32, trips_28d, trips_112d, coverage, recent_coverage,
        repurchase_rate, repurchase_hazard, gap_cv,
    ) = rows.unbind(0)  # fmt: skip
    return RepurchaseFeatures(
        trips, last_trip, trips_decayed_8, trips_decayed_32, trips_28d, trips_112d, coverage, recent_coverage,
        repurchase_rate, repurchase_hazard, gap_cv,
    )  # fmt: skip


def scale_repurchase(
    raw: RepurchaseFeatures,
    is_bought: Tensor,
    user_trips: Tensor,
    tenure_days: Tensor,
    horizon_days: float,
    missing_log_age: float,
) -> RepurchaseFeatures:
    """Brings raw features [R, ΣC] to the scale that the ranker reads.

    Args:
        is_bought: [R, ΣC] bool.
        user_trips, tenure_days: [ΣC] of the user.
    """
    return RepurchaseFeatures(
        trips=raw.trips / user_trips.clamp_min(1),
        last_trip=torch.where(is_bought, torch.log1p(raw.last_trip), missing_log_age),
        trips_decayed_8=torch.log1p(raw.trips_decayed_8),
        trips_decayed_32=torch.log1p(raw.trips_decayed_32),
        trips_28d=torch.log1p(raw.trips_28d),
        trips_112d=torch.log1p(raw.trips_112d),
        coverage=raw.coverage / tenure_days.clamp_min(horizon_days),
        recent_coverage=raw.recent_coverage / (tenure_days.clamp_max(120.0) + horizon_days),
        repurchase_rate=raw.repurchase_rate,
        repurchase_hazard=raw.repurchase_hazard,
        gap_cv=raw.gap_cv,
    )
