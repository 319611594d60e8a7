"""A simulated shop with new items, day by day; the value of every slate is known.

Catalog, users and responses come from `data=simulated` (docs/explanation/simulated_market.md). Histories do
not depend on slates, so every policy sees the same checkouts. Two policies that show an item at the same slot
get the same response, so policies differ only by their choices. The hidden part of an item's appeal decides
how much exploration can gain. In the simulator one standard deviation of `appeal` changes the logit of a
click by .15 and does not change the logit of a purchase; `appeal_weight` is added to both effects.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experimentation.off_policy.simulated_logs import (
    EXAMINATION_PROBABILITY,
    WARMUP_ORDERS,
    simulate_next_order,
)
from simulation import behaviour
from simulation.behaviour import NEW_ITEM_DAYS
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, SimulatedItems, sample_items
from simulation.people import PurchaseState, SimulatedUsers, initial_state, sample_users

Array = np.ndarray
USER_GROUPS = 6  # one group orders each day
WARMUP_DAYS = 20  # days of the shop's own slates before day 0
N_FEATURES = 8


class ShopConfig(NamedTuple):
    """One shop; `seed` draws its catalog, its users and their responses."""

    seed: int
    days: int = 60  # after the warm-up
    checkouts_per_day: int = 100
    items: int = 150
    appeal_weight: float = 0.0  # logits of clicks and purchases per standard deviation of appeal


class Day(NamedTuple):
    """A day's n checkouts with the features and the true probabilities of all I items."""

    number: int  # negative in the warm-up
    available: Array  # [I] bool, the item has arrived
    features: Array  # [n, I, F] that the shop can compute
    price: Array  # [I]
    shop_score: Array  # [n, I] score by the shop's own policy
    p_click_given_examined: Array  # [n, I]
    p_purchase_given_click: Array  # [n, I]
    uniforms: Array  # [3, n, I] draws that decide examination, click and purchase

    @property
    def expected_revenue(self) -> Array:
        """Expected revenue of an examined item [n, I]."""
        return (
            self.p_click_given_examined
            * self.p_purchase_given_click
            * self.price
            * behaviour.MEAN_SPEND_RATIO
        )

    def slate_revenue(self, slate: Array) -> Array:
        """Expected revenue of every slot [n, K] of slates [n, K]."""
        return EXAMINATION_PROBABILITY * np.take_along_axis(self.expected_revenue, slate, 1)

    def sample_feedback(self, items: Array, p_examined: Array) -> tuple[Array, Array]:
        """Draw clicks and purchases of `items` [n, m]: bool [n, m] each.

        An item in column j is examined with probability `p_examined[j]`.
        """
        examine, click, purchase = np.take_along_axis(self.uniforms, items[None], 2)
        clicked = (examine < p_examined) & (click < np.take_along_axis(self.p_click_given_examined, items, 1))
        return clicked, clicked & (purchase < np.take_along_axis(self.p_purchase_given_click, items, 1))


def shop_items(shop: ShopConfig) -> SimulatedItems:
    """Return the shop's items. 15 % of them arrive during its days, the warm-up included."""
    return sample_items({"items": shop.items, "days": WARMUP_DAYS + shop.days, "seed": shop.seed})


def arrival_days(items: SimulatedItems) -> Array:
    """Return the first day [I] on which each item is available; -WARMUP_DAYS for the initial items."""
    return np.ceil((items.created_at - SIMULATION_START) / SECONDS_PER_DAY).astype(np.int64) - WARMUP_DAYS


def simulate_days(shop: ShopConfig) -> Iterator[Day]:
    """Yield the shop's days, the warm-up days first."""
    items, rng = shop_items(shop), np.random.default_rng([shop.seed, 1])
    groups = [
        sample_users({"gap": USER_GROUPS}, rng, np.arange(shop.checkouts_per_day)) for _ in range(USER_GROUPS)
    ]
    states = [initial_state(shop.checkouts_per_day, shop.items) for _ in range(USER_GROUPS)]
    arrival_day = arrival_days(items)
    for users, state in zip(groups, states, strict=True):
        for _ in range(WARMUP_ORDERS):
            simulate_next_order(items, users, state, rng, arrival_day <= -WARMUP_DAYS)
    for number in range(-WARMUP_DAYS, shop.days):
        users, state = groups[number % USER_GROUPS], states[number % USER_GROUPS]
        simulate_next_order(items, users, state, rng, arrival_day <= number)
        yield _simulate_day(shop, items, users, state, number, rng)


def _simulate_day(
    shop: ShopConfig,
    items: SimulatedItems,
    users: SimulatedUsers,
    state: PurchaseState,
    number: int,
    rng: np.random.Generator,
) -> Day:
    habits = behaviour.habit_features(items, state)
    ts = np.full(shop.checkouts_per_day, SIMULATION_START + (WARMUP_DAYS + number) * SECONDS_PER_DAY)
    p_click, p_purchase = behaviour.response_probabilities(items, users, state, habits, ts)
    appeal_logits = shop.appeal_weight * items.appeal
    price_gap = behaviour.log_price_gaps(items, state)
    arrival_day = arrival_days(items)
    is_new = (number - arrival_day < NEW_ITEM_DAYS) & (items.created_at > SIMULATION_START)
    features = [
        np.ones_like(price_gap),
        habits.log_leaf_share,
        habits.log_brand_share,
        habits.log_item_count,
        state.in_basket,
        price_gap,
        price_gap**2,
        np.broadcast_to(is_new, price_gap.shape),
    ]
    return Day(
        number=number,
        available=arrival_day <= number,
        features=np.stack(features, 2).astype(np.float64),
        price=items.price.astype(np.float64),
        shop_score=behaviour.policy_scores(items, habits).astype(np.float64),
        p_click_given_examined=_shift_logits(p_click.astype(np.float64), appeal_logits),
        p_purchase_given_click=_shift_logits(p_purchase.astype(np.float64), appeal_logits),
        uniforms=rng.random((3, *p_click.shape)),
    )


def _shift_logits(probability: Array, logits: Array) -> Array:
    """Add `logits` to the logits of the probabilities, and return the new probabilities."""
    odds = probability / (1 - probability) * np.exp(logits)
    return odds / (1 + odds)
