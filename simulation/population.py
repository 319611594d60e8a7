"""The people of the marketplace, day by day: who orders what, what they click, what they then buy.

Their tastes and answers are those of `data=simulated` (simulation/market.py); here somebody else fills the
slates. What is clicked is decided on: it is in the person's next order or is not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation import market
from simulation.market import DAY, SIMULATION_START, Array, PurchaseState

# Random streams of a day: baskets do not depend on how slates are drawn.
RNG_STREAMS = ("lines", "luck")


class SimulatedOrders(NamedTuple):
    """n orders of a day, by time, and what is true of every one of the I items right after them.

    m lines have been paid; `follows` are those that a click on the person's last slate led to.
    """

    user: Array  # [n] int64
    ts: Array  # [n] int64, Unix seconds
    line_order: Array  # [m] int64, the order of a line
    item: Array  # [m] int64
    quantity: Array  # [m] int64
    price: Array  # [m] float64, paid for one
    from_slate: Array  # [m] bool
    available: Array  # [n, I] bool, the item can be had at that time
    in_basket: Array  # [n, I] bool
    p_click_given_examined: Array  # [n, I] p(click | seen)
    p_purchase_given_click: Array  # [n, I] p(purchase | click)
    expected_spend: Array  # [n, I] expected spend if shown first
    rule_slate: Array  # [n, slots] int64, the slate of the shop's old rules
    rule_propensity: Array  # [n, slots] of the old rules


class Population:
    """`users` people of the marketplace `cfg` (configs/data/simulated.yaml says what can be set)."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self.cfg, self.n_users, self.n_slots = cfg, int(cfg["users"]), int(cfg["slots"])
        self.items = market.sample_items(cfg)
        rng = np.random.default_rng([cfg["seed"], 1])
        self.user_traits = market.sample_users(cfg, rng, np.arange(self.n_users))
        self.examination_probability = market.examination_probability(
            self.n_slots, cfg["position_bias"]
        )  # [slots]
        items = len(self.items.price)
        self.state = market.initial_state(self.n_users, items)
        self.clicked_items = np.zeros(
            (self.n_users, items), bool
        )  # clicked in the last slate: bought next, or not
        self.pending_purchases = np.zeros((self.n_users, items), bool)  # of these, what is bought next
        self.next_order_ts = SIMULATION_START + (
            rng.uniform(0, 2, self.n_users) * self.user_traits.order_gap_days * DAY
        ).astype(np.int64)

    def simulate_orders(self, day: int) -> SimulatedOrders:
        """Everybody who orders on a day (from 0). Call it once a day, in order, then `answer`."""
        rng = self._rng(day, "lines")
        start = SIMULATION_START + day * DAY
        who = np.flatnonzero(self.next_order_ts < start + DAY)
        ts = np.maximum(self.next_order_ts[who], start)
        who, ts = who[np.argsort(ts, kind="stable")], np.sort(ts)
        goods, people = self.items, market.SimulatedUsers(*(column[who] for column in self.user_traits))
        before = PurchaseState(*(column[who] for column in self.state))
        basket = (
            market.sample_basket(goods, people, before, self.clicked_items[who], ts, rng)
            | self.pending_purchases[who]
        )
        row, item = np.nonzero(basket)
        quantity = 1 + (rng.random(len(row)) < market.DOUBLE_QUANTITY_PROBABILITY)
        price = np.round(
            goods.price[item] * np.where(rng.random(len(row)) < market.DISCOUNT_PROBABILITY, 0.8, 1.0), 2
        )
        market.add_purchases(goods, self.state, who[row], item, quantity * price)
        self.state.in_basket[who] = basket
        now = PurchaseState(*(column[who] for column in self.state))
        habits = market.habit_features(goods, now)
        click, buy = market.response_probabilities(goods, people, now, habits, ts)
        usual, propensity = market.sample_slate(goods, habits, ts, rng, self.n_slots, self.cfg["exploration"])
        there = goods.created_at <= ts[:, None]
        return SimulatedOrders(
            user=who, ts=ts, line_order=row, item=item, quantity=quantity, price=price,
            from_slate=self.pending_purchases[who[row], item], available=there, in_basket=basket, p_click_given_examined=click, p_purchase_given_click=buy,
            expected_spend=np.where(there, click * buy * goods.price * market.MEAN_SPEND_RATIO, 0.0),
            rule_slate=usual, rule_propensity=propensity,
        )  # fmt: skip

    def simulate_feedback(self, day: int, orders: SimulatedOrders, slate: Array) -> Array:
        """What of the slates [n, slots] is clicked: [n, slots] bool. -1 stands for an empty slot.

        It also decides what is bought with everyone's next order, and when that is.
        """
        rng = self._rng(day, "luck")
        luck = rng.random((3, *slate.shape))
        full, item = slate >= 0, np.maximum(slate, 0)
        clicked = (
            full
            & (luck[0] < self.examination_probability)
            & (luck[1] < np.take_along_axis(orders.p_click_given_examined, item, 1))
        )
        carries = clicked & (luck[2] < np.take_along_axis(orders.p_purchase_given_click, item, 1))
        for table, answers in ((self.clicked_items, clicked), (self.pending_purchases, carries)):
            table[orders.user] = False
            row, slot = np.nonzero(answers)
            table[orders.user[row], slate[row, slot]] = True
        gap = (0.1 + 0.9 * rng.gamma(2, 0.5, len(orders.user))) * self.user_traits.order_gap_days[orders.user]
        self.next_order_ts[orders.user] = orders.ts + (gap * DAY).astype(np.int64)
        return clicked

    def slate_value(self, orders: SimulatedOrders, slate: Array) -> Array:
        """[n] true expected spend on slates [n, slots] in these positions."""
        value = np.take_along_axis(orders.expected_spend, np.maximum(slate, 0), 1)
        return (np.where(slate >= 0, value, 0.0) * self.examination_probability[: slate.shape[1]]).sum(1)

    def oracle_slates(self, orders: SimulatedOrders) -> Array:
        """[n, slots] the slates of the highest true expected spend: the best that can be done."""
        return market.top_k(np.where(orders.available, orders.expected_spend, -1.0), self.n_slots)

    def _rng(self, day: int, use: str) -> np.random.Generator:
        return np.random.default_rng([self.cfg["seed"], 2, RNG_STREAMS.index(use), day])
