"""How much a logged slot counts for another policy, by what is assumed of the shopper.

    shopper    a slot's reward depends on    weight of the item a_k that slot k showed
    position   the item, times θ = p(seen)   Σ_j θ_j new(a_k at j) / Σ_j θ_j log(a_k at j)
    slot       the item and the slot         new(a_k at k) / log(a_k at k)
    cascade    the items above it too        Π_{i ≤ k} new(a_i | those above) / log(a_i | those above)
    slate      the whole slate               the same product over all slots

From the first to the last less is assumed, and the weights grow. `position` and `slot` are the position-based
and the item-position model of Li et al. (KDD 2018, section 4), `cascade` is the reward interaction IPS of
McInerney et al. (KDD 2020), `slate` is IPS. The pseudoinverse of Swaminathan et al. (NeurIPS 2017) is for
rewards that are known of the whole slate only; here every slot has its own.

The first two take the chance of an item at a slot over all that may stand above, the others the chance given
what does. Where only the last slot is drawn, as in serving, the two are one; for softmax policies
placement.py computes the former.
"""

import numpy as np

Array = np.ndarray
SHOPPER_MODELS = ("position", "slot", "cascade", "slate")


def importance_ratio(target: Array, logging: Array) -> Array:
    """new / logged, of chances or of sums of chances of what was shown.

    Raises ValueError for a logged chance that is not above 0: what was shown had one.
    """
    if not (logging > 0).all():
        raise ValueError("a propensity of what was shown is not above 0: the log's propensities are wrong")
    return target / logging


def cascade_weights(new: Array, logged: Array) -> Array:
    """Weights [n, K] from the chances [n, K] of each shown item given those above it."""
    return np.cumprod(importance_ratio(new, logged), axis=1)


def slate_weights(new: Array, logged: Array) -> Array:
    """Weights [n, K] from the same, alike for all slots of a slate."""
    weight = cascade_weights(new, logged)
    return np.repeat(weight[:, -1:], weight.shape[1], axis=1)


def clip_weights(weight: Array, most: float | None) -> Array:
    """Weights of at most `most` (Ionides 2008): less noise, for a bias towards 0."""
    return weight if most is None else np.minimum(weight, most)
