"""Importance weights of logged slots for a target policy, for each model of the shopper.

    shopper    a slot's reward depends on    weight of the item a_k that slot k showed
    position   the item, times θ             Σ_j θ_j target(a_k at j) / Σ_j θ_j logging(a_k at j)
    slot       the item and the slot         target(a_k at k) / logging(a_k at k)
    cascade    the item and the items above  Π_{i ≤ k} target(a_i | items above) / logging(a_i | items above)
    slate      the whole slate               the product of `cascade`, over all slots

θ is the examination probability of a slot. From row to row, the assumptions get weaker and the weights get
larger. `position` and `slot` are the position-based and the item-position model of Li et al. (KDD 2018,
section 4), `cascade` is the reward interaction IPS of McInerney et al. (KDD 2020), `slate` is IPS. The
pseudoinverse of Swaminathan et al. (NeurIPS 2017) applies only to a reward of the whole slate; here every
slot has a reward.

`position` and `slot` use the probability of an item at a slot, summed over all items that may stand above.
`cascade` and `slate` use the probability given the items above. If only the last slot is sampled, as in
serving, the two probabilities are equal. For softmax policies, plackett_luce.py computes the summed
probability.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray
SHOPPER_MODELS = ("position", "slot", "cascade", "slate")


class PolicyProbabilities(NamedTuple):
    """Probabilities of the same choices under two policies."""

    target: Array
    logging: Array


def importance_ratio(target: Array, logging: Array) -> Array:
    """Return target / logging. Both are probabilities of logged choices, or sums of such probabilities.

    Raises ValueError for a logging probability of 0 or less, because a logged choice had a positive one.
    """
    if not (logging > 0).all():
        raise ValueError(
            "a logged item has a propensity of 0 or less. A policy cannot show such an item, so the log's "
            "propensities are wrong: correct them where the log is written"
        )
    return target / logging


def cascade_weights(target: Array, logging: Array) -> Array:
    """Return weights [n, K] from the probabilities [n, K] of each logged item given the items above it."""
    return np.cumprod(importance_ratio(target, logging), axis=1)


def slate_weights(target: Array, logging: Array) -> Array:
    """Return weights [n, K] from the probabilities that `cascade_weights` takes.

    All slots of a slate have the same weight.
    """
    weight = cascade_weights(target, logging)
    return np.repeat(weight[:, -1:], weight.shape[1], axis=1)


def weights_by_shopper_model(
    examined: PolicyProbabilities, at_slot: PolicyProbabilities, given_above: PolicyProbabilities
) -> dict[str, Array]:
    """Return shopper model → weights [n, K] of the logged items.

    Args:
        examined: [n, K] sums over all slots of θ times the probability of the item there.
        at_slot: [n, K] probabilities of the item at its slot.
        given_above: [n, K] probabilities of the item at its slot, given the items above it.
    """
    return {
        "position": importance_ratio(*examined),
        "slot": importance_ratio(*at_slot),
        "cascade": cascade_weights(*given_above),
        "slate": slate_weights(*given_above),
    }


def clip_weights(weight: Array, max_weight: float | None) -> Array:
    """Clip weights at `max_weight` (Ionides 2008); None does not clip.

    Clipping lowers the variance and biases the estimates towards 0.
    """
    return weight if max_weight is None else np.minimum(weight, max_weight)
