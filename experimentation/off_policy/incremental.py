"""Incremental revenue as a reward of logged checkouts.

Some slates of the log were withheld at random. uplift_terms.py defines the terms of a slot. The bundle
predicts the revenue of items on the slate that it selects.
"""

import numpy as np

from experimentation.off_policy.logged_checkouts import LoggedCheckouts, select_checkouts
from experimentation.off_policy.replay import ReplayedSlates, select_replayed
from experimentation.off_policy.uplift_terms import (
    GroupWeights,
    SlotRevenue,
    group_weights,
    mean_slot_revenue,
    uplift_terms,
)

Array = np.ndarray
INCREMENTAL_REVENUE = "incremental revenue"
MIN_GROUP_CHECKOUTS = 40  # with a withheld slate, and with a shown one, that an estimate needs


def select_withholding(
    logged: LoggedCheckouts, replayed: ReplayedSlates
) -> tuple[LoggedCheckouts, ReplayedSlates] | None:
    """Return the checkouts whose slate could have been shown or withheld.

    Returns None if the shown or the withheld checkouts are too few.
    """
    mask = (logged.withhold > 0) & (logged.withhold < 1)
    n_withheld = int(logged.is_withheld[mask].sum())
    if min(n_withheld, int(mask.sum()) - n_withheld) < MIN_GROUP_CHECKOUTS:
        return None
    return select_checkouts(logged, mask), select_replayed(replayed, mask)


def withholding_line(logged: LoggedCheckouts) -> str:
    """A sentence with the number of slates in the log that were withheld at random."""
    could_be = (logged.withhold > 0) & (logged.withhold < 1)
    n_withheld = int(logged.is_withheld[could_be].sum())
    counts = f"{n_withheld:,} of {int(could_be.sum()):,} slates were held back at random"
    if min(n_withheld, int(could_be.sum()) - n_withheld) >= MIN_GROUP_CHECKOUTS:
        return f"{counts}: incremental revenue counts order lines of their items, clicked or not."
    return (
        f"{counts}: incremental revenue needs {MIN_GROUP_CHECKOUTS} withheld and as many shown. To do: set "
        "withhold in the file of experiments, and estimate from the log that follows."
    )


def with_incremental_rewards(
    logged: LoggedCheckouts, replayed: ReplayedSlates, examination_probability: Array
) -> tuple[LoggedCheckouts, ReplayedSlates]:
    """Return the checkouts of `select_withholding` with uplift terms as rewards, and their replayed slates.

    The slates have predictions of incremental revenue. If the bundle predicts none, the mean of the log is
    the prediction of every examined item.
    """
    weights = group_weights(logged.is_withheld, logged.withhold)
    mean = mean_slot_revenue(logged.slot_revenue, weights)
    mean_uplift = (mean.shown - mean.organic).mean(0).sum() / examination_probability.sum()
    uplift = replayed.predictions[INCREMENTAL_REVENUE]  # [n, K]
    uplift = np.where(np.isfinite(uplift), uplift, mean_uplift) * replayed.item.astype(bool)
    predictions = replayed.predictions | {INCREMENTAL_REVENUE: uplift}
    replayed = replayed._replace(predictions=predictions)
    predicted = _slot_predictions(logged, replayed, weights, examination_probability)
    terms = uplift_terms(logged.slot_revenue, weights, predicted) * logged.item.astype(bool)
    return logged._replace(rewards={INCREMENTAL_REVENUE: terms}), replayed


def _slot_predictions(
    logged: LoggedCheckouts, replayed: ReplayedSlates, weights: GroupWeights, examination_probability: Array
) -> SlotRevenue:
    """The predicted revenue of each logged slot.

    If the replayed slate has the slot's item, the bundle predicts its revenue. Otherwise the slot's mean is
    taken.
    """
    mean = mean_slot_revenue(logged.slot_revenue, weights)
    same_item = logged.item[:, :, None] == replayed.item[:, None, :]  # [n, K, K]

    def of_logged(values: Array, mean: Array) -> Array:
        """Return the value [n, K] of each logged slot's item on the replayed slate, else `mean`."""
        is_predicted = same_item & np.isfinite(values)[:, None, :]
        return np.where(is_predicted.any(2), (is_predicted * np.nan_to_num(values)[:, None, :]).sum(2), mean)

    organic = of_logged(replayed.predictions["organic revenue"], mean.organic)
    uplift = replayed.predictions[INCREMENTAL_REVENUE]
    mean_uplift = (mean.shown - mean.organic) / examination_probability
    return SlotRevenue(organic + examination_probability * of_logged(uplift, mean_uplift), organic)
