"""The users of the simulated market, day by day: their orders, clicks and next purchases.

Preferences and responses come from `data=simulated`; here a recommender fills the slates. A click decides
whether the item is in the user's next order. With organic demand (`data.organic.share`), needed items are in
the next order in any case, and the increment of a slate is known.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, Array, sample_items
from simulation.logged_market import responses_after_orders, select_slates
from simulation.needs import NEED_STREAM, ShoppingList, organic_market, sample_shopping_lists
from simulation.people import PurchaseState, SimulatedUsers, add_purchases, initial_state, sample_users
from simulation.responses import Responses, sample_feedback

# Random streams of a day: baskets do not depend on how slates are drawn. The positions are seeds.
RNG_STREAMS = ("orders", "feedback", "needs")


class SimulatedOrders(NamedTuple):
    """The n orders of a day in order of time.

    The true responses to all I items are those right after each order.

    The orders have m lines; `from_slate` marks lines of items that were clicked in the user's last slate.
    With organic demand, some of these items would have been bought without the slate.
    """

    user: Array  # [n] int64
    ts: Array  # [n] int64, Unix seconds
    line_order: Array  # [m] int64, row of the line's order
    item: Array  # [m] int64
    quantity: Array  # [m] int64
    price: Array  # [m] float64, unit price paid
    from_slate: Array  # [m] bool
    available: Array  # [n, I] bool, a slot can sell the item at that time
    in_basket: Array  # [n, I] bool
    responses: Responses  # [n, I] each
    needed: Array | None  # [n, I] bool, in the next order in any case; None without organic demand
    expected_spend: Array  # [n, I] expected spend after a click if the item has the first slot
    incremental_spend: Array | None  # [n, I] expected spend that the item adds in the first slot
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
        self.market = organic_market(cfg, self.items)
        self.lists: ShoppingList | None = None
        self.order_count = np.zeros(self.n_users, np.int64)
        if self.market is not None:
            rng = np.random.default_rng([cfg["seed"], NEED_STREAM])
            self.lists = sample_shopping_lists(self.market, self.user_traits, rng)
            first = self.market.next_order(self.user_traits, self.lists, 0, self.next_order_ts)
            self.pending_purchases = first.sample(rng)

    def simulate_orders(self, day: int) -> SimulatedOrders:
        """Draw the orders of a day.

        Call this method once for each day from 0 on, in order, and before the day's `simulate_feedback`.
        """
        rng = self._rng(day, "orders")
        day_start = SIMULATION_START + day * SECONDS_PER_DAY
        user = np.flatnonzero(self.next_order_ts < day_start + SECONDS_PER_DAY)
        ts = np.maximum(self.next_order_ts[user], day_start)
        user, ts = user[np.argsort(ts, kind="stable")], np.sort(ts)
        line_order, item, quantity, price = self._order_lines(user, ts, rng)
        traits = SimulatedUsers(*(column[user] for column in self.user_traits))
        state = PurchaseState(*(column[user] for column in self.state))
        lists = None if self.lists is None else ShoppingList(*(column[user] for column in self.lists))
        responses, next_order = responses_after_orders(
            self.items, self.market, traits, state, lists, self.order_count[user], ts
        )
        rule_slate, rule_propensity = select_slates(self.cfg, self.items, self.market, state, ts, rng)
        available = self.items.created_at <= ts[:, None]
        if self.market is not None:
            available &= self.market.sellable
        p_click, p_purchase, organic = responses
        price_of_items, spend_ratio = self.items.price, behaviour.MEAN_SPEND_RATIO
        added = None if organic is None else organic.p_added * price_of_items * spend_ratio
        return SimulatedOrders(
            user=user,
            ts=ts,
            line_order=line_order,
            item=item,
            quantity=quantity,
            price=price,
            from_slate=(self.clicked_items & self.pending_purchases)[user[line_order], item],
            available=available,
            in_basket=state.in_basket,
            responses=responses,
            needed=None if next_order is None else next_order.sample(self._rng(day, "needs")),
            expected_spend=np.where(available, p_click * p_purchase * price_of_items * spend_ratio, 0.0),
            incremental_spend=None if added is None else np.where(available, added, 0.0),
            rule_slate=rule_slate,
            rule_propensity=rule_propensity,
        )

    def _order_lines(
        self, user: Array, ts: Array, rng: np.random.Generator
    ) -> tuple[Array, Array, Array, Array]:
        """Draw the orders of users [n]; return row of the order, item, quantity and price of each line."""
        in_basket = self.pending_purchases[user]
        if self.market is None:
            traits = SimulatedUsers(*(column[user] for column in self.user_traits))
            state = PurchaseState(*(column[user] for column in self.state))
            in_basket |= behaviour.sample_basket(self.items, traits, state, self.clicked_items[user], ts, rng)
        row, item = np.nonzero(in_basket)
        quantity, price = behaviour.sample_quantities_and_prices(self.items, item, rng)
        add_purchases(self.items, self.state, user[row], item, quantity * price)
        self.state.in_basket[user] = in_basket
        if self.lists is not None:
            self.lists.last_order[user[row], item] = self.order_count[user[row]]
        self.order_count[user] += 1
        return row, item, quantity, price

    def simulate_feedback(self, day: int, orders: SimulatedOrders, slate: Array) -> Array:
        """Draw the clicks on slates [n, slots]: [n, slots] bool. -1 is an empty slot.

        The method also draws the purchases after the clicks, and the time of each user's next order.
        """
        rng = self._rng(day, "feedback")
        p_examined = self.examination_probability
        clicked, purchased = sample_feedback(orders.responses, orders.needed, slate, p_examined, rng)
        for item_mask, slot_mask in ((self.clicked_items, clicked), (self.pending_purchases, purchased)):
            item_mask[orders.user] = False
            row, slot = np.nonzero(slot_mask)
            item_mask[orders.user[row], slate[row, slot]] = True
        if orders.needed is not None:
            self.pending_purchases[orders.user] |= orders.needed
        gaps = behaviour.sample_order_gaps(self.user_traits.order_gap_days[orders.user], rng)
        self.next_order_ts[orders.user] = orders.ts + gaps
        return clicked

    def slate_value(self, orders: SimulatedOrders, slate: Array) -> Array:
        """Return the true expected spend [n] after clicks on slates [n, slots], given the positions."""
        return self._spend_at_positions(orders.expected_spend, slate)

    def incremental_slate_value(self, orders: SimulatedOrders, slate: Array) -> Array:
        """Return the true expected spend [n] that slates [n, slots] add to the next orders.

        The spend depends on the items' positions. Raises ValueError without organic demand.
        """
        return self._spend_at_positions(_known_increment(orders), slate)

    def oracle_slates(self, orders: SimulatedOrders) -> Array:
        """Return the slates [n, slots] of highest true expected spend: an upper bound for any policy."""
        return behaviour.top_k(np.where(orders.available, orders.expected_spend, -1.0), self.n_slots)

    def incremental_oracle_slates(self, orders: SimulatedOrders) -> Array:
        """Return the slates [n, slots] that add the highest true expected spend.

        Raises ValueError without organic demand.
        """
        return behaviour.top_k(np.where(orders.available, _known_increment(orders), -1.0), self.n_slots)

    def _spend_at_positions(self, spend: Array, slate: Array) -> Array:
        """Return the sum [n] over a slate of `spend` [n, I] times p(examined) of the item's position."""
        value = np.take_along_axis(spend, np.maximum(slate, 0), 1)
        return (np.where(slate >= 0, value, 0.0) * self.examination_probability[: slate.shape[1]]).sum(1)

    def _rng(self, day: int, stream: str) -> np.random.Generator:
        return np.random.default_rng([self.cfg["seed"], 2, RNG_STREAMS.index(stream), day])


def _known_increment(orders: SimulatedOrders) -> Array:
    if orders.incremental_spend is None:
        raise ValueError(
            "this market does not record which purchases a slate adds: set data.organic.share to a number "
            "from 0 to 0.9"
        )
    return orders.incremental_spend
