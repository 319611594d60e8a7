"""A shop, day by day, in which the value of every slate is known and to which new items come.

Catalog, people and answers are those of `data=simulated` (docs/simulated.md). Histories do not depend on
slates, so that every policy meets the same checkouts, and two that show an item at one slot see one answer:
what differs between policies is what they chose.

How much of an item nobody can know in advance decides what exploring can bring. In the marketplace clicks
answer to `appeal`, which no fact tells, with .15 logits a standard deviation, and purchases do not;
`Shop.appeal` adds to both.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experimentation.off_policy import simulated_logs
from experimentation.off_policy.simulated_logs import EXAMINATION_PROBABILITY
from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, SimulatedItems, sample_items
from simulation.people import PurchaseState, SimulatedUsers, initial_state, sample_users

Array = np.ndarray
USER_GROUPS = 6  # of people; one comes each day
WARMUP_DAYS = 20  # days of the shop's own slates before those that are compared
NEW_ITEM_DAYS = 28  # days for which an item is new to people
N_FEATURES = 8


class ShopConfig(NamedTuple):
    """One shop; `seed` draws its catalog, its people and what they do."""

    seed: int
    days: int = 60  # that are compared
    checkouts_per_day: int = 100  # a day
    items: int = 150
    appeal_weight: float = (
        0.0  # logits of clicks and purchases a standard deviation, on top of the marketplace's
    )


class Day(NamedTuple):
    """n checkouts, what is known of all I items there, and what is true."""

    number: int  # 0 is the first that is compared; the warm ones are below
    available: Array  # [I] bool, has arrived
    features: Array  # [n, I, F] what the shop can compute
    price: Array  # [I]
    shop_score: Array  # [n, I] score by the shop's own policy
    p_click_given_examined: Array  # [n, I] p(click | seen)
    p_purchase_given_click: Array  # [n, I] p(purchase | click)
    uniforms: Array  # [3, n, I] even draws, by which items are seen, clicked and bought

    @property
    def expected_revenue(self) -> Array:
        """Expected revenue of an item that is seen [n, I]."""
        return (
            self.p_click_given_examined
            * self.p_purchase_given_click
            * self.price
            * behaviour.MEAN_SPEND_RATIO
        )

    def slate_revenue(self, slate: Array) -> Array:
        """Expected revenue of every slot [n, K] of slates [n, K]."""
        return EXAMINATION_PROBABILITY * np.take_along_axis(self.expected_revenue, slate, 1)

    def sample_feedback(self, items: Array, seen: Array) -> tuple[Array, Array]:
        """What is clicked and what is bought of items [n, m] that are seen with p [m]: bool [n, m] each."""
        look, click, buy = np.take_along_axis(self.uniforms, items[None], 2)
        clicked = (look < seen) & (click < np.take_along_axis(self.p_click_given_examined, items, 1))
        return clicked, clicked & (buy < np.take_along_axis(self.p_purchase_given_click, items, 1))


def shop_items(shop: ShopConfig) -> SimulatedItems:
    """The shop's items; 15 % arrive over its days, the warm ones included."""
    return sample_items({"items": shop.items, "days": WARMUP_DAYS + shop.days, "seed": shop.seed})


def arrival_days(goods: SimulatedItems) -> Array:
    """The day on which each item [I] is there for the first time; that before the warm ones if always."""
    return np.ceil((goods.created_at - SIMULATION_START) / SECONDS_PER_DAY).astype(np.int64) - WARMUP_DAYS


def simulate_days(shop: ShopConfig) -> Iterator[Day]:
    """The shop's days, the warm ones first."""
    goods, rng = shop_items(shop), np.random.default_rng([shop.seed, 1])
    people = [
        sample_users({"gap": USER_GROUPS}, rng, np.arange(shop.checkouts_per_day)) for _ in range(USER_GROUPS)
    ]
    states = [initial_state(shop.checkouts_per_day, shop.items) for _ in range(USER_GROUPS)]
    first = arrival_days(goods)
    for who, state in zip(people, states, strict=True):
        for _ in range(simulated_logs.WARMUP_ORDERS):
            simulated_logs.simulate_next_order(goods, who, state, rng, first <= -WARMUP_DAYS)
    for number in range(-WARMUP_DAYS, shop.days):
        there, group = first <= number, number % USER_GROUPS
        simulated_logs.simulate_next_order(goods, people[group], states[group], rng, there)
        yield _day(shop, goods, people[group], states[group], number, there, rng)


def _day(
    shop: ShopConfig, goods: SimulatedItems, people: SimulatedUsers, state: PurchaseState, number: int, there: Array,
    rng: np.random.Generator,
) -> Day:  # fmt: skip
    n = shop.checkouts_per_day
    habits = behaviour.habit_features(goods, state)
    click, buy = behaviour.response_probabilities(
        goods, people, state, habits, np.full(n, SIMULATION_START + (WARMUP_DAYS + number) * SECONDS_PER_DAY)
    )
    more = shop.appeal_weight * goods.appeal
    dear = np.clip(np.log(goods.price) - np.log(state.total_spend / state.line_count)[:, None], -2, 2)
    young = np.broadcast_to(
        (number - arrival_days(goods) < NEW_ITEM_DAYS) & (goods.created_at > SIMULATION_START), dear.shape
    )
    facts = [
        np.ones_like(dear),
        habits.log_leaf_share,
        habits.log_brand_share,
        habits.log_item_count,
        state.in_basket,
        dear,
        dear**2,
        young,
    ]
    return Day(
        number=number,
        available=there,
        features=np.stack(facts, 2).astype(np.float64),
        price=goods.price.astype(np.float64),
        shop_score=behaviour.policy_scores(goods, habits).astype(np.float64),
        p_click_given_examined=_shift_logits(click.astype(np.float64), more),
        p_purchase_given_click=_shift_logits(buy.astype(np.float64), more),
        uniforms=rng.random((3, *click.shape)),
    )


def _shift_logits(chance: Array, logits: Array) -> Array:
    """Chances whose logits are so much higher."""
    odds = chance / (1 - chance) * np.exp(logits)
    return odds / (1 + odds)
