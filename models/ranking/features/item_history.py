"""The user's purchases and views of the candidate."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.jagged import lookup, sum_by_key
from models.ranking.features.blocks import PairInputs
from models.ranking.features.purchase_levels import LevelSums


class OwnPurchases(NamedTuple):
    """The user's purchases of the candidate and of the candidate's leaf category.

    Means are 0 without any line.
    """

    lines: Tensor  # [ΣC]
    leaf_lines: Tensor  # [ΣC], 1 at least
    mean_spend: Tensor  # [ΣC] per line
    mean_quantity: Tensor  # [ΣC] per line
    recent_mean_spend: Tensor  # [ΣC] per line, with decay
    leaf_mean_spend: Tensor  # [ΣC] per line


def own_purchases(sums: LevelSums) -> OwnPurchases:
    """The user's lines, spend and quantity of the first two levels: the item and its leaf category."""
    lines, leaf_lines = sums.lines[0], sums.lines[1].clamp_min(1)
    lines_or_one = lines.clamp_min(1)
    return OwnPurchases(
        lines=lines,
        leaf_lines=leaf_lines,
        mean_spend=sums.spend[0] / lines_or_one,
        mean_quantity=sums.quantity[0] / lines_or_one,
        recent_mean_spend=sums.recent_spend[0] / sums.recent_lines[0].clamp_min(1e-3),
        leaf_mean_spend=sums.spend[1] / leaf_lines,
    )


class PurchaseCounts(NamedTuple):
    """Block: the user's purchases of the item, before the log."""

    item_gap: Tensor  # mean days between purchases, 0 for fewer than two
    item_spend: Tensor  # per line
    item_quantity: Tensor  # per line


class PurchaseRatios(NamedTuple):
    """Block: ratios of the user's purchases of the item."""

    item_due: Tensor  # log of days since the last purchase over the mean gap, 0 for no gap
    item_share_of_leaf: Tensor  # of the lines of the leaf category


def purchase_features(sums: LevelSums, own: OwnPurchases) -> tuple[PurchaseCounts, PurchaseRatios]:
    """Interval and size of the user's purchases of the item."""
    min_age = sums.min_age[0]
    repeats = (own.lines - 1).clamp_min(0)
    gap = (sums.max_age[0] - min_age) / repeats.clamp_min(1)
    due = torch.where(repeats > 0, torch.log((min_age + 1) / (gap + 1)), 0.0)
    counts = PurchaseCounts(item_gap=gap, item_spend=own.mean_spend, item_quantity=own.mean_quantity)
    return counts, PurchaseRatios(item_due=due, item_share_of_leaf=own.lines / own.leaf_lines)


class ViewFeatures(NamedTuple):
    """Block: the user's clicks and carts of the item."""

    clicks: Tensor  # log of the decayed count
    click_age: Tensor  # log of the days since the last


def view_features(pairs: PairInputs, missing_log_age: float) -> ViewFeatures:
    """Count and age of the clicks and carts of the item. A view loses half its weight in 10 days."""
    n_items = pairs.catalog.leaf.numel()
    viewed = (pairs.query.history_kind != 0).nonzero()[:, 0]
    age = pairs.event_age.index_select(0, viewed)
    item = pairs.query.history_item.index_select(0, viewed)
    key = pairs.event_checkout.index_select(0, viewed) * n_items + item
    unique, count = sum_by_key(key, torch.exp2(-age / 10.0))
    last_age = torch.full_like(count, 1e9)
    last_age = last_age.scatter_reduce(0, torch.searchsorted(unique, key), age, "amin")
    candidate_key = pairs.checkout * n_items + pairs.candidates.item
    table = torch.stack([count, last_age], dim=1)
    count, last_age = lookup(unique, table, candidate_key).unbind(1)  # [ΣC]
    log_age = torch.where(count > 0, torch.log1p(last_age), missing_log_age)
    return ViewFeatures(clicks=torch.log1p(count), click_age=log_age)
