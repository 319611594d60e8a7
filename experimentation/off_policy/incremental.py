"""Incremental revenue of logged slots, from slates that were held back at random.

A held-back slate is logged as ghosts, the items that it would have shown (ghost ads, Johnson, Lewis and
Nubbemeyer, Journal of Marketing Research 2017). What its items earn is bought without the slot. With the
probability w that a checkout's slate is held back, and W = 1 where it was, the term of a slot

    m1 - m0 + (1 - W) / (1 - w) · (R - m1) - W / w · (R - m0)

has the expectation of what showing the item adds to its revenue R, whatever the predictions m1 (shown) and m0
(not shown) are: augmented inverse propensity weighting (Robins, Rotnitzky and Zhao, JASA 1994). Good
predictions make it less noisy. The estimators of estimators.py read the terms as rewards, so that `doubly
robust` has both propensities, of the item and of the slate being shown.
"""

from typing import NamedTuple

import numpy as np

from experimentation.off_policy.logged_checkouts import LoggedCheckouts, select_checkouts
from experimentation.off_policy.replay import ReplayedSlates, select_replayed

Array = np.ndarray
INCREMENTAL_REVENUE = "incremental revenue"
MIN_WITHHELD = 40  # checkouts with a withheld slate, and with a shown one, that an estimate needs
NO_WITHHOLDING = (
    "No slate was held back at random, so incremental revenue cannot be estimated. To do: set `withhold` in "
    "the file of experiments, and estimate from the log that follows"
)


class SlotRevenue(NamedTuple):
    """Revenue of n slates of K slots: [n, K] each; not negative, 0 for an empty slot."""

    shown: Array  # expected where the slate is shown
    organic: Array  # expected where it is not


def select_withholding(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> tuple[LoggedCheckouts, ReplayedSlates] | None:
    """The checkouts whose slate could have been shown or held back; None with fewer than MIN_WITHHELD of
    either."""
    mask = (logged.withhold > 0) & (logged.withhold < 1)
    n_withheld = int(logged.is_withheld[mask].sum())
    if min(n_withheld, int(mask.sum()) - n_withheld) < MIN_WITHHELD:
        return None
    return select_checkouts(logged, mask), select_replayed(replayed, mask)


def group_weights(logged: LoggedCheckouts) -> tuple[Array, Array]:
    """(1 - W) / (1 - w) and W / w: [n, 1] each."""
    withheld, probability = logged.is_withheld[:, None], logged.withhold[:, None]
    return (1 - withheld) / (1 - probability), withheld / probability


def mean_slot_revenue(logged: LoggedCheckouts) -> SlotRevenue:
    """Mean revenue of each slot in both groups, the same for all checkouts."""
    means = [
        (weight * logged.slot_revenue).sum(0) / weight.sum() * np.ones_like(logged.slot_revenue)
        for weight in group_weights(logged)
    ]
    return SlotRevenue(*(mean * logged.item.astype(bool) for mean in means))


def mean_uplift_if_examined(mean: SlotRevenue, examination_probability: Array) -> float:
    """Mean incremental revenue of a slot that is examined."""
    return float((mean.shown - mean.organic).mean(0).sum() / examination_probability.sum())


def slot_predictions(
    logged: LoggedCheckouts, replayed: ReplayedSlates, uplift_if_examined: Array, examination: Array
) -> SlotRevenue:
    """Predicted revenue of the logged slots: the bundle's of items on its slate, else the slot's mean.

    Args:
        uplift_if_examined: [n, K] of the replayed items.
        examination: [K] p(examined | slot).
    """
    mean = mean_slot_revenue(logged)
    same_item = logged.item[:, :, None] == replayed.item[:, None, :]  # [n, K, K]
    is_replayed = same_item.any(2)
    organic = replayed.predictions["organic revenue"]  # [n, K], NaN where the bundle predicts none
    replayed_organic = (same_item * np.nan_to_num(organic)[:, None, :]).sum(2)
    has_organic = (same_item & np.isfinite(organic)[:, None, :]).any(2)
    organic = np.where(has_organic, replayed_organic, mean.organic)
    uplift = examination * (same_item * uplift_if_examined[:, None, :]).sum(2)
    shown = np.where(is_replayed, organic + uplift, mean.shown)
    is_filled = logged.item.astype(bool)
    return SlotRevenue(shown * is_filled, np.where(is_replayed, organic, mean.organic) * is_filled)


def uplift_terms(logged: LoggedCheckouts, predicted: SlotRevenue) -> Array:
    """Terms [n, K] whose expectation is what the slot adds to the revenue of its item."""
    shown, withheld = group_weights(logged)
    revenue = logged.slot_revenue
    return (
        predicted.shown
        - predicted.organic
        + shown * (revenue - predicted.shown)
        - withheld * (revenue - predicted.organic)
    )
