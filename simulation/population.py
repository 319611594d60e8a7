"""The people of the marketplace, day by day: who orders what, what they click, what they then buy.

Their tastes and answers are those of `data=simulated` (simulation/market.py); here somebody else fills the
slates. What is clicked is decided on: it is in the person's next order or is not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation import market
from simulation.market import DAY, START, Array, State

# Random streams of a day: baskets do not depend on how slates are drawn.
STREAMS = ("lines", "luck")


class Orders(NamedTuple):
    """n orders of a day, by time, and what is true of every one of the I items right after them.

    m lines have been paid; `follows` are those that a click on the person's last slate led to.
    """

    user: Array  # [n] int64
    ts: Array  # [n] int64, Unix seconds
    row: Array  # [m] int64, the order of a line
    item: Array  # [m] int64
    quantity: Array  # [m] int64
    price: Array  # [m] float64, paid for one
    follows: Array  # [m] bool
    there: Array  # [n, I] bool, the item can be had at that time
    basket: Array  # [n, I] bool
    click: Array  # [n, I] p(click | seen)
    buy: Array  # [n, I] p(purchase | click)
    value: Array  # [n, I] expected spend if shown first
    usual: Array  # [n, slots] int64, the slate of the shop's old rules
    propensity: Array  # [n, slots] of the old rules


class Crowd:
    """`users` people of the marketplace `cfg` (configs/data/simulated.yaml says what can be set)."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self.cfg, self.users, self.slots = cfg, int(cfg["users"]), int(cfg["slots"])
        self.goods = market.goods(cfg)
        rng = np.random.default_rng([cfg["seed"], 1])
        self.people = market.people(cfg, rng, np.arange(self.users))
        self.seen = market.examined(self.slots, cfg["position_bias"])  # [slots]
        items = len(self.goods.price)
        self.state = market.no_history(self.users, items)
        self.decided = np.zeros((self.users, items), bool)  # clicked in the last slate: bought next, or not
        self.carried = np.zeros((self.users, items), bool)  # of these, what is bought next
        self.due = START + (rng.uniform(0, 2, self.users) * self.people.gap * DAY).astype(np.int64)

    def orders(self, day: int) -> Orders:
        """Everybody who orders on a day (from 0). Call it once a day, in order, then `answer`."""
        rng = self._rng(day, "lines")
        start = START + day * DAY
        who = np.flatnonzero(self.due < start + DAY)
        ts = np.maximum(self.due[who], start)
        who, ts = who[np.argsort(ts, kind="stable")], np.sort(ts)
        goods, people = self.goods, market.People(*(column[who] for column in self.people))
        before = State(*(column[who] for column in self.state))
        basket = market.basket(goods, people, before, self.decided[who], ts, rng) | self.carried[who]
        row, item = np.nonzero(basket)
        quantity = 1 + (rng.random(len(row)) < market.BULK)
        price = np.round(goods.price[item] * np.where(rng.random(len(row)) < market.OFFER, 0.8, 1.0), 2)
        market.count(goods, self.state, who[row], item, quantity * price)
        self.state.basket[who] = basket
        now = State(*(column[who] for column in self.state))
        habits = market.habits(goods, now)
        click, buy = market.answers(goods, people, now, habits, ts)
        usual, propensity = market.slate(goods, habits, ts, rng, self.slots, self.cfg["exploration"])
        there = goods.created <= ts[:, None]
        return Orders(
            user=who, ts=ts, row=row, item=item, quantity=quantity, price=price,
            follows=self.carried[who[row], item], there=there, basket=basket, click=click, buy=buy,
            value=np.where(there, click * buy * goods.price * market.SPEND, 0.0),
            usual=usual, propensity=propensity,
        )  # fmt: skip

    def answer(self, day: int, orders: Orders, slate: Array) -> Array:
        """What of the slates [n, slots] is clicked: [n, slots] bool. -1 stands for an empty slot.

        It also decides what is bought with everyone's next order, and when that is.
        """
        rng = self._rng(day, "luck")
        luck = rng.random((3, *slate.shape))
        full, item = slate >= 0, np.maximum(slate, 0)
        clicked = full & (luck[0] < self.seen) & (luck[1] < np.take_along_axis(orders.click, item, 1))
        carries = clicked & (luck[2] < np.take_along_axis(orders.buy, item, 1))
        for table, answers in ((self.decided, clicked), (self.carried, carries)):
            table[orders.user] = False
            row, slot = np.nonzero(answers)
            table[orders.user[row], slate[row, slot]] = True
        gap = (0.1 + 0.9 * rng.gamma(2, 0.5, len(orders.user))) * self.people.gap[orders.user]
        self.due[orders.user] = orders.ts + (gap * DAY).astype(np.int64)
        return clicked

    def worth(self, orders: Orders, slate: Array) -> Array:
        """[n] true expected spend on slates [n, slots] in these positions."""
        value = np.take_along_axis(orders.value, np.maximum(slate, 0), 1)
        return (np.where(slate >= 0, value, 0.0) * self.seen[: slate.shape[1]]).sum(1)

    def oracle(self, orders: Orders) -> Array:
        """[n, slots] the slates of the highest true expected spend: the best that can be done."""
        return market.best(np.where(orders.there, orders.value, -1.0), self.slots)

    def _rng(self, day: int, use: str) -> np.random.Generator:
        return np.random.default_rng([self.cfg["seed"], 2, STREAMS.index(use), day])
