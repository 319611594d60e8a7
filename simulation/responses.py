"""Response probabilities of users of the simulated market to slates, and draws of their responses."""

from typing import NamedTuple

import numpy as np

from simulation.catalog import Array


class OrganicResponses(NamedTuple):
    """Response probabilities of n users for every item, if it is needed and if it is not: [n, I] each."""

    p_not_shown: Array  # p(bought in the next order | not shown), that is p(needed)
    p_click_if_needed: Array  # p(click | examined, needed); a needed item is bought
    p_click_if_not_needed: Array  # p(click | examined, not needed)
    p_purchase_if_not_needed: Array  # p(purchase | click, not needed)

    @property
    def p_added(self) -> Array:
        """Return p(bought | first slot) - p(bought | not shown) [n, I].

        For another position, multiply by p(examined) of this position.
        """
        return (1 - self.p_not_shown) * self.p_click_if_not_needed * self.p_purchase_if_not_needed


class Responses(NamedTuple):
    """Response probabilities of n users for every item after an order: [n, I] each."""

    p_click_given_examined: Array
    p_purchase_given_click: Array  # needed or not
    organic: OrganicResponses | None = None  # None: p(bought | not shown) is not known


def sample_feedback(
    responses: Responses, needed: Array | None, slate: Array, p_examined: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw clicks on slates [n, slots] and purchases after a click: bool [n, slots] each.

    Args:
        needed: [n, I] bool, items that are in the next orders in any case; None without organic demand.
        slate: items by position [n, slots]; -1 is an empty slot.
        p_examined: [slots].
    """
    draws = rng.random((3, *slate.shape))
    item = np.maximum(slate, 0)

    def of_slate(values: Array) -> Array:
        return np.take_along_axis(values, item, 1)

    p_click, p_purchase = (
        of_slate(responses.p_click_given_examined),
        of_slate(responses.p_purchase_given_click),
    )
    if needed is not None and responses.organic is not None:
        organic, is_needed = responses.organic, of_slate(needed)
        if_not = of_slate(organic.p_click_if_not_needed)
        p_click = np.where(is_needed, of_slate(organic.p_click_if_needed), if_not)
        p_purchase = np.where(is_needed, 1.0, of_slate(organic.p_purchase_if_not_needed))
    clicked = (slate >= 0) & (draws[0] < p_examined) & (draws[1] < p_click)
    return clicked, clicked & (draws[2] < p_purchase)
