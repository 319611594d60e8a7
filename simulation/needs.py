"""Organic demand: purchases of simulated users that happen with or without a slot.

Every user has a shopping list of consumables, each with a cycle. An item that is due is needed in the next
order, whether or not a slot shows it. Users also buy new items by preference, and items that a slot cannot
sell. So p(bought in the next order | not shown) is known for every item, and a slot adds

    p(bought | shown) - p(bought | not shown) = p(examined) · (1 - p(needed)) · p(click) · p(purchase | click)

A needed item is bought in any case. Users also click needed items more often; after a click, the purchase is
attributed to the slot. An item that is bought today is due later, so a slot brings purchases forward.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation import behaviour
from simulation.catalog import DEPARTMENTS, LEAVES, SIMULATION_START, Array, SimulatedItems
from simulation.people import PurchaseState, SimulatedUsers
from simulation.responses import OrganicResponses, Responses

UNSELLABLE_SHARE = 0.15  # of the items, such as fuel or gift cards: bought, but in no slot
UNSELLABLE_STREAM, NEED_STREAM = 4, 5  # of the random numbers; the others are the catalog's, users' and days'
CONSUMABLES = ("pantry", "bakery", "fresh", "care", "pets")  # departments whose items are bought again
MEAN_LIST_ITEMS = 12  # of a user's shopping list
CYCLE_ORDERS = (1.0, 6.0)  # orders between two purchases of an item of the list: evenly drawn
MAX_NEED = 0.95  # p(needed) of an item that is long overdue
VARIETY_LINES = 0.6  # mean lines of an order that preference alone chooses
CLICK_LOGIT = 0.5  # added to all clicks, in place of the attraction of items that were bought before
NEED_CLICK_LOGIT = 1.5  # added to the click's logit if the item is needed
STOCKED_LOGIT = -1.0  # added to the purchase's logit of an item of the list that is not needed
POLICY_LEAF_WEIGHT = 1.2  # of the user's leaf categories in the shop's policy

# Share of the purchases of shown items that happen without the slot too, and the settings that lead to it:
# `python -m benchmarks.organic_demand` measures them.
SHARES = (0.0, 0.1, 0.3, 0.6, 0.75, 0.9)
NEED_SCALE = (0.0, 0.12, 0.65, 1.0, 1.0, 1.0)  # of p(needed) and of the lines by preference
POLICY_HABIT_WEIGHT = (0.0, -0.2, -0.4, 0.45, 1.2, 2.3)  # of the user's own purchases in the shop's policy
PURCHASE_LOGIT = (1.0, 1.0, 1.0, 1.0, 0.7, 0.0)  # added to the purchase's logit of an item that is not needed


class OrganicDemand(NamedTuple):
    """The settings that follow from a share of organic purchases."""

    need_scale: float
    policy_habit_weight: float
    purchase_logit: float


class ShoppingList(NamedTuple):
    """The shopping lists of n users."""

    cycle: Array  # [n, I] float32, orders between two purchases; inf for an item that is not on the list
    last_order: Array  # [n, I] float32, number of the latest order with the item


def organic_demand(cfg: Mapping[str, Any]) -> OrganicDemand | None:
    """Return the organic demand for `cfg["organic"]["share"]`, or None if this share is null.

    Raises ValueError for a share outside [0, 0.9].
    """
    share = (cfg.get("organic") or {}).get("share")
    if share is None:
        return None
    if not SHARES[0] <= share <= SHARES[-1]:
        raise ValueError(f"data.organic.share is {share}, expected null or a number from 0 to {SHARES[-1]}")
    settings = (NEED_SCALE, POLICY_HABIT_WEIGHT, PURCHASE_LOGIT)
    return OrganicDemand(*(float(np.interp(share, SHARES, values)) for values in settings))


def sellable_items(cfg: Mapping[str, Any], n_items: int) -> Array:
    """Return whether a slot can sell each item: [I] bool. Without organic demand, all items are True."""
    if organic_demand(cfg) is None:
        return np.ones(n_items, bool)
    sellable = np.random.default_rng([cfg["seed"], UNSELLABLE_STREAM]).random(n_items) >= UNSELLABLE_SHARE
    sellable[0] = False  # every order needs an unsellable item that has arrived
    return sellable


def sample_shopping_lists(
    market: "OrganicMarket", users: SimulatedUsers, rng: np.random.Generator
) -> ShoppingList:
    """Draw the lists of n users by preference, from the sellable consumables of the first day."""
    items, sellable = market.items, market.sellable
    n, n_items = len(users.user), len(items.price)
    leaves_per_department = len(LEAVES) // len(DEPARTMENTS)
    consumable = np.isin(items.leaf // leaves_per_department,
                         [list(DEPARTMENTS).index(name) for name in CONSUMABLES])  # fmt: skip
    score = preference_logits(items, users) + behaviour.gumbel_noise(rng, (n, n_items))
    score[:, ~(consumable & sellable & (items.created_at <= SIMULATION_START))] = -np.inf
    ranked = behaviour.top_k(score, min(2 * MEAN_LIST_ITEMS, n_items))
    length = rng.poisson(MEAN_LIST_ITEMS, n)
    is_listed = (np.arange(ranked.shape[1]) < length[:, None]) & np.isfinite(
        np.take_along_axis(score, ranked, 1)
    )
    cycle = np.full((n, n_items), np.inf, np.float32)
    drawn = rng.uniform(*CYCLE_ORDERS, ranked.shape)
    np.put_along_axis(cycle, ranked, np.where(is_listed, drawn, np.inf).astype(np.float32), 1)
    last_order = np.full((n, n_items), -np.inf, np.float32)
    np.put_along_axis(last_order, ranked, -np.ceil(rng.random(ranked.shape) * drawn).astype(np.float32), 1)
    return ShoppingList(cycle, last_order)


def preference_logits(items: SimulatedItems, users: SimulatedUsers) -> Array:
    """Return the logits [n, I] of every item by preference, price level and appeal, without habit."""
    price_gap = np.log(items.price) - 2.3 - users.log_price_level[:, None]
    preference = users.leaf_preference[:, items.leaf] + users.brand_preference[:, items.brand]
    return preference + 0.8 * items.appeal - 0.4 * price_gap**2


def need_probabilities(lists: ShoppingList, order_number: Array | int) -> Array:
    """Return p(needed) [n, I] by the shopping lists alone, in the order with this number (an int or [n])."""
    waited = np.reshape(order_number, (-1, 1)).astype(np.float32) - lists.last_order
    is_listed = np.isfinite(lists.cycle)
    periods = np.where(is_listed, waited, 0.0) / np.where(is_listed, lists.cycle, 1.0)
    return MAX_NEED * (1 - np.exp(-(periods**2)))


def preference_shares(items: SimulatedItems, users: SimulatedUsers, among: Array, ts: Array) -> Array:
    """Return the softmax shares [n, I] of items in the preferences of n users.

    Only the items of the mask `among` [I] bool that arrived by `ts` [n] get a share.
    """
    weight = np.exp(preference_logits(items, users))
    weight[~(among & (items.created_at <= ts[:, None]))] = 0.0
    return weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)


class NextOrder(NamedTuple):
    """Organic demand of n users for the order after the last one."""

    necessity_share: Array  # [n, I] share of an unsellable item in the one line that every order has
    p_further: Array  # [n, I] p(bought besides that line)

    @property
    def p_not_shown(self) -> Array:
        """p(bought in the next order | not shown) [n, I]."""
        return 1 - (1 - self.p_further) * (1 - self.necessity_share)

    def sample(self, rng: np.random.Generator) -> Array:
        """Draw the purchases that happen without the slot: [n, I] bool."""
        bought = rng.random(self.p_further.shape, np.float32) < self.p_further
        necessity = np.where(
            self.necessity_share > 0, np.log(np.maximum(self.necessity_share, 1e-30)), -np.inf
        )
        necessity = necessity + behaviour.gumbel_noise(rng, necessity.shape)
        bought[np.arange(len(bought)), necessity.argmax(1)] = True
        return bought


class OrganicMarket(NamedTuple):
    """The items and the demand of a market with organic demand."""

    demand: OrganicDemand
    items: SimulatedItems
    sellable: Array  # [I] bool, the slot can sell it

    def next_order(
        self, users: SimulatedUsers, lists: ShoppingList, order_number: Array | int, ts: Array
    ) -> NextOrder:
        """Return the organic demand for an order, of items that have arrived at `ts` [n].

        Each item is needed by the list or bought by preference, independently of all other items. Every order
        has a line of an item that a slot cannot sell, so no order is empty. `order_number` is the number of
        this order, an int or [n].
        """
        scale = self.demand.need_scale
        variety = preference_shares(self.items, users, self.sellable, ts)
        necessity = preference_shares(self.items, users, ~self.sellable, ts)
        mean_lines = users.mean_basket_lines[:, None] - 1  # by preference, besides the one line
        no_line = np.exp(-scale * VARIETY_LINES * variety - mean_lines * necessity)
        need = scale * need_probabilities(lists, order_number)
        return NextOrder(necessity, 1 - (1 - need) * no_line)

    def responses(
        self,
        users: SimulatedUsers,
        state: PurchaseState,
        lists: ShoppingList,
        next_order: NextOrder,
        ts: Array,
    ) -> Responses:
        """Return the probabilities of every item after an order at `ts` [n]."""
        habits = behaviour.habit_features(self.items, state)
        # The list holds the habits; an item that was bought before attracts no more than its kind.
        habits = habits._replace(log_item_count=np.zeros_like(habits.log_item_count))
        click, purchase = behaviour.response_logits(self.items, users, state, habits, ts)
        click = click + CLICK_LOGIT
        purchase = purchase + self.demand.purchase_logit + STOCKED_LOGIT * np.isfinite(lists.cycle)
        needed = next_order.p_not_shown
        if_needed = behaviour.sigmoid(click + NEED_CLICK_LOGIT) * self.sellable
        if_not, conversion = behaviour.sigmoid(click) * self.sellable, behaviour.sigmoid(purchase)
        p_click = needed * if_needed + (1 - needed) * if_not
        p_bought = needed * if_needed + (1 - needed) * if_not * conversion
        p_purchase = p_bought / np.maximum(p_click, 1e-12)
        return Responses(p_click, p_purchase, OrganicResponses(needed, if_needed, if_not, conversion))

    def sample_slate(
        self,
        state: PurchaseState,
        ts: Array,
        rng: np.random.Generator,
        slots: int,
        exploration: float,
    ) -> tuple[Array, Array]:
        """Draw slates [n, slots] of sellable items by the shop's policy, and their propensities.

        The policy does not show items that were just paid, except when it explores.
        """
        sold = np.flatnonzero(self.sellable)
        habits = behaviour.habit_features(self.items, state)
        weights = (self.demand.policy_habit_weight, POLICY_LEAF_WEIGHT)
        score = behaviour.policy_scores(self.items, habits, *weights)
        score = np.where(state.in_basket, -np.inf, score)[:, sold]
        arrival = self.items.created_at[sold]
        slate, propensity = behaviour.sample_slate(score, arrival, ts, rng, slots, exploration)
        return sold[slate], propensity


def organic_market(cfg: Mapping[str, Any], items: SimulatedItems) -> OrganicMarket | None:
    """The market of `cfg` with organic demand; None if `cfg` has no organic demand."""
    demand = organic_demand(cfg)
    return None if demand is None else OrganicMarket(demand, items, sellable_items(cfg, len(items.price)))
