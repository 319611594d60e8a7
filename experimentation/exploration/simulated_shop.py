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
from experimentation.off_policy.simulated_logs import SEEN
from simulation import market
from simulation.market import DAY, START, Goods, People, State

Array = np.ndarray
GROUPS = 6  # of people; one comes each day
WARM = 20  # days of the shop's own slates before those that are compared
NEW = 28  # days for which an item is new to people
FACTS = 8


class Shop(NamedTuple):
    """One shop; `seed` draws its catalog, its people and what they do."""

    seed: int
    days: int = 60  # that are compared
    checkouts: int = 100  # a day
    items: int = 150
    appeal: float = 0.0  # logits of clicks and purchases a standard deviation, on top of the marketplace's


class Day(NamedTuple):
    """n checkouts, what is known of all I items there, and what is true."""

    number: int  # 0 is the first that is compared; the warm ones are below
    there: Array  # [I] bool, has arrived
    facts: Array  # [n, I, F] what the shop can compute
    price: Array  # [I]
    own: Array  # [n, I] score by the shop's own policy
    click: Array  # [n, I] p(click | seen)
    buy: Array  # [n, I] p(purchase | click)
    luck: Array  # [3, n, I] even draws, by which items are seen, clicked and bought

    @property
    def value(self) -> Array:
        """Expected revenue of an item that is seen [n, I]."""
        return self.click * self.buy * self.price * market.SPEND

    def earned(self, slate: Array) -> Array:
        """Expected revenue of every slot [n, K] of slates [n, K]."""
        return SEEN * np.take_along_axis(self.value, slate, 1)

    def answers(self, items: Array, seen: Array) -> tuple[Array, Array]:
        """What is clicked and what is bought of items [n, m] that are seen with p [m]: bool [n, m] each."""
        look, click, buy = np.take_along_axis(self.luck, items[None], 2)
        clicked = (look < seen) & (click < np.take_along_axis(self.click, items, 1))
        return clicked, clicked & (buy < np.take_along_axis(self.buy, items, 1))


def catalog(shop: Shop) -> Goods:
    """The shop's items; 15 % arrive over its days, the warm ones included."""
    return market.goods({"items": shop.items, "days": WARM + shop.days, "seed": shop.seed})


def arrivals(goods: Goods) -> Array:
    """The day on which each item [I] is there for the first time; that before the warm ones if always."""
    return np.ceil((goods.created - START) / DAY).astype(np.int64) - WARM


def days(shop: Shop) -> Iterator[Day]:
    """The shop's days, the warm ones first."""
    goods, rng = catalog(shop), np.random.default_rng([shop.seed, 1])
    people = [market.people({"gap": GROUPS}, rng, np.arange(shop.checkouts)) for _ in range(GROUPS)]
    states = [market.no_history(shop.checkouts, shop.items) for _ in range(GROUPS)]
    first = arrivals(goods)
    for who, state in zip(people, states, strict=True):
        for _ in range(simulated_logs.BEFORE):
            simulated_logs.next_order(goods, who, state, rng, first <= -WARM)
    for number in range(-WARM, shop.days):
        there, group = first <= number, number % GROUPS
        simulated_logs.next_order(goods, people[group], states[group], rng, there)
        yield _day(shop, goods, people[group], states[group], number, there, rng)


def _day(
    shop: Shop, goods: Goods, people: People, state: State, number: int, there: Array,
    rng: np.random.Generator,
) -> Day:  # fmt: skip
    n = shop.checkouts
    habits = market.habits(goods, state)
    click, buy = market.answers(goods, people, state, habits, np.full(n, START + (WARM + number) * DAY))
    more = shop.appeal * goods.appeal
    dear = np.clip(np.log(goods.price) - np.log(state.spend / state.lines)[:, None], -2, 2)
    young = np.broadcast_to((number - arrivals(goods) < NEW) & (goods.created > START), dear.shape)
    facts = [np.ones_like(dear), habits.leaf, habits.brand, habits.own, state.basket, dear, dear**2, young]
    return Day(
        number=number,
        there=there,
        facts=np.stack(facts, 2).astype(np.float64),
        price=goods.price.astype(np.float64),
        own=market.policy(goods, habits).astype(np.float64),
        click=_raised(click.astype(np.float64), more),
        buy=_raised(buy.astype(np.float64), more),
        luck=rng.random((3, *click.shape)),
    )


def _raised(chance: Array, logits: Array) -> Array:
    """Chances whose logits are so much higher."""
    odds = chance / (1 - chance) * np.exp(logits)
    return odds / (1 + odds)
