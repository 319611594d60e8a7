"""The users of the simulated market, day by day: who orders what, clicks what, and buys what next.

Preferences and responses are those of `data=simulated`; here a recommender fills the slates. A clicked item
is decided on: it is in the user's next order, or it is not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, Array, sample_items
from simulation.people import PurchaseState, SimulatedUsers, add_purchases, initial_state, sample_users

# Random streams of a day: baskets do not depend on how slates are drawn. The positions are seeds.
RNG_STREAMS = ("orders", "feedback")


class SimulatedOrders(NamedTuple):
    """n orders of a day, by time, with the truth about all I items right after each order.

    m order lines have been paid; `from_slate` marks those that a click on the user's last slate led to.
    """

    user: Array  # [n] int64
    ts: Array  # [n] int64, Unix seconds
    line_order: Array  # [m] int64, row of the line's order
    item: Array  # [m] int64
    quantity: Array  # [m] int64
    price: Array  # [m] float64, unit price paid
    from_slate: Array  # [m] bool
    available: Array  # [n, I] bool, the item can be ordered at that time
    in_basket: Array  # [n, I] bool
    p_click_given_examined: Array  # [n, I] p(click | examined)
    p_purchase_given_click: Array  # [n, I] p(purchase | click)
    expected_spend: Array  # [n, I] expected spend if the item has the first slot
    rule_slate: Array  # [n, slots] int64, the slate of the shop's own policy
    rule_propensity: Array  # [n, slots] of the shop's own policy


class Population:
    """The users of the simulated market of `cfg` (configs/data/simulated.yaml)."""

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self.cfg, self.n_users, self.n_slots = cfg, int(cfg["users"]), int(cfg["slots"])
        self.items = sample_items(cfg)
        rng = np.random.default_rng([cfg["seed"], 1])
        self.user_traits = sample_users(cfg, rng, np.arange(self.n_users))
        self.examination_probability = behaviour.examination_probability(
            self.n_slots, cfg["position_bias"]
        )  # [slots]
        n_items = len(self.items.price)
        self.state = initial_state(self.n_users, n_items)
        # Clicked in the last slate, and of these what is in the user's next order.
        self.clicked_items = np.zeros((self.n_users, n_items), bool)
        self.pending_purchases = np.zeros((self.n_users, n_items), bool)
        self.next_order_ts = SIMULATION_START + (
            rng.uniform(0, 2, self.n_users) * self.user_traits.order_gap_days * SECONDS_PER_DAY
        ).astype(np.int64)

    def simulate_orders(self, day: int) -> SimulatedOrders:
        """Draw the orders of a day (from 0). Call it for each day in turn, then `simulate_feedback`."""
        rng = self._rng(day, "orders")
        day_start = SIMULATION_START + day * SECONDS_PER_DAY
        user = np.flatnonzero(self.next_order_ts < day_start + SECONDS_PER_DAY)
        ts = np.maximum(self.next_order_ts[user], day_start)
        user, ts = user[np.argsort(ts, kind="stable")], np.sort(ts)
        items, traits = self.items, SimulatedUsers(*(column[user] for column in self.user_traits))
        state = PurchaseState(*(column[user] for column in self.state))
        in_basket = (
            behaviour.sample_basket(items, traits, state, self.clicked_items[user], ts, rng)
            | self.pending_purchases[user]
        )
        row, item = np.nonzero(in_basket)
        quantity, price = behaviour.sample_quantities_and_prices(items, item, rng)
        add_purchases(items, self.state, user[row], item, quantity * price)
        self.state.in_basket[user] = in_basket
        state = PurchaseState(*(column[user] for column in self.state))
        habits = behaviour.habit_features(items, state)
        p_click, p_purchase = behaviour.response_probabilities(items, traits, state, habits, ts)
        rule_slate, rule_propensity = behaviour.sample_slate(
            behaviour.policy_scores(items, habits),
            items.created_at,
            ts,
            rng,
            self.n_slots,
            self.cfg["exploration"],
        )
        available = items.created_at <= ts[:, None]
        spend = p_click * p_purchase * items.price * behaviour.MEAN_SPEND_RATIO
        return SimulatedOrders(
            user=user,
            ts=ts,
            line_order=row,
            item=item,
            quantity=quantity,
            price=price,
            from_slate=self.pending_purchases[user[row], item],
            available=available,
            in_basket=in_basket,
            p_click_given_examined=p_click,
            p_purchase_given_click=p_purchase,
            expected_spend=np.where(available, spend, 0.0),
            rule_slate=rule_slate,
            rule_propensity=rule_propensity,
        )

    def simulate_feedback(self, day: int, orders: SimulatedOrders, slate: Array) -> Array:
        """Draw the clicks on slates [n, slots]: [n, slots] bool. -1 is an empty slot.

        It also draws the purchases that follow, and the time of each user's next order.
        """
        rng = self._rng(day, "feedback")
        draws = rng.random((3, *slate.shape))
        is_filled, item = slate >= 0, np.maximum(slate, 0)
        clicked = (
            is_filled
            & (draws[0] < self.examination_probability)
            & (draws[1] < np.take_along_axis(orders.p_click_given_examined, item, 1))
        )
        purchased = clicked & (draws[2] < np.take_along_axis(orders.p_purchase_given_click, item, 1))
        for item_mask, slot_mask in ((self.clicked_items, clicked), (self.pending_purchases, purchased)):
            item_mask[orders.user] = False
            row, slot = np.nonzero(slot_mask)
            item_mask[orders.user[row], slate[row, slot]] = True
        gaps = behaviour.sample_order_gaps(self.user_traits.order_gap_days[orders.user], rng)
        self.next_order_ts[orders.user] = orders.ts + gaps
        return clicked

    def slate_value(self, orders: SimulatedOrders, slate: Array) -> Array:
        """[n] true expected spend on slates [n, slots] in these positions."""
        value = np.take_along_axis(orders.expected_spend, np.maximum(slate, 0), 1)
        return (np.where(slate >= 0, value, 0.0) * self.examination_probability[: slate.shape[1]]).sum(1)

    def oracle_slates(self, orders: SimulatedOrders) -> Array:
        """[n, slots] slates of the highest true expected spend: an upper bound for any policy."""
        return behaviour.top_k(np.where(orders.available, orders.expected_spend, -1.0), self.n_slots)

    def _rng(self, day: int, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.cfg["seed"], 2, RNG_STREAMS.index(stream), day])
