"""The revenue that logged slots add to their items, estimated from slates withheld at random.

A withheld slate is logged as ghosts, the items that it would have shown (ghost ads, Johnson, Lewis and
Nubbemeyer, Journal of Marketing Research 2017). Purchases of ghosts happen without the slot. Let w be the
probability that a checkout's slate is withheld, and W = 1 if it was. The term of a slot,

    m1 - m0 + (1 - W) / (1 - w) · (R - m1) - W / w · (R - m0)

is an unbiased estimate of the amount that showing the item adds to the item's revenue R, for any predictions
m1 (shown) and m0 (not shown). This is augmented inverse propensity weighting (Robins, Rotnitzky and Zhao,
JASA 1994). Good predictions reduce the noise. The estimators of estimators.py use the terms as rewards. The
terms correct for the random choice to withhold a slate; the estimators' weights correct for the choice of
items.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class GroupWeights(NamedTuple):
    """The weights [n, 1] of the shown and of the withheld group.

    A checkout's weight is the inverse probability of its own group, and 0 in the other group.
    """

    shown: Array  # (1 - W) / (1 - w)
    withheld: Array  # W / w


class SlotRevenue(NamedTuple):
    """Expected revenue of slots if their slate is shown and if it is withheld: [n, K] each."""

    shown: Array
    organic: Array  # where the slate is held back


def group_weights(is_withheld: Array, withhold: Array) -> GroupWeights:
    """Return the weights from W [n] bool and w [n]; w is above 0 and below 1."""
    w, is_withheld = withhold[:, None], is_withheld[:, None]
    return GroupWeights((1 - is_withheld) / (1 - w), is_withheld / w)


def mean_slot_revenue(revenue: Array, weights: GroupWeights) -> SlotRevenue:
    """Return the mean of `revenue` [n, K] by slot in both groups.

    The means are repeated for all checkouts.
    """
    means = ((weight * revenue).sum(0) / weight.sum() for weight in weights)
    return SlotRevenue(*(np.broadcast_to(mean, revenue.shape) for mean in means))


def uplift_terms(revenue: Array, weights: GroupWeights, predicted: SlotRevenue) -> Array:
    """Return the uplift terms [n, K] of slots, from the revenue [n, K] of their items and its predictions."""
    return (
        predicted.shown
        - predicted.organic
        + weights.shown * (revenue - predicted.shown)
        - weights.withheld * (revenue - predicted.organic)
    )
