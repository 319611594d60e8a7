"""The simulated market under the shop's own policy, in blocks of users.

docs/explanation/simulated_market.md explains the market. Each block of users has separate random streams, so
memory does not grow with the number of users. In a block, all users make their k-th order at the same step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from simulation import behaviour, needs, people
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, Array, SimulatedItems
from simulation.needs import NextOrder, OrganicMarket, ShoppingList
from simulation.people import PurchaseState, SimulatedUsers
from simulation.responses import Responses, sample_feedback

USERS_PER_BLOCK = 256
MAX_ORDERS_PER_USER = 10_000  # order number = user · MAX_ORDERS_PER_USER + round
WITHHOLD_STREAM = 6  # of the random numbers


class OrderLines(NamedTuple):
    """m lines of the orders of a round."""

    row: Array  # [m] int64, of the order
    item: Array  # [m] int64
    quantity: Array  # [m] int64
    price: Array  # [m] unit price paid
    from_slate: Array  # [m] bool, clicked in the slate before


class LoggedSlates(NamedTuple):
    """The slates after n orders, as the shop logs them."""

    item: Array  # [n, slots] int64
    propensity: Array  # [n, slots]
    clicked: Array  # [n, slots] bool
    withheld: Array  # [n] bool, selected and not shown


class Round(NamedTuple):
    """One order of each of n users, and their responses right after it.

    The users are those of a block who still order.
    """

    order: Array  # [n] int64
    user: Array  # [n] int64
    ts: Array  # [n] int64
    lines: OrderLines
    slates: LoggedSlates
    responses: Responses


@dataclass
class _Block:
    """The users of a block who still order. Every array has a row per user."""

    users: SimulatedUsers
    state: PurchaseState
    ts: Array  # [n] int64, of the next order
    clicked_items: Array  # [n, I] bool, in the last slate
    pending_purchases: Array  # [n, I] bool, what is in the next order in any case
    lists: ShoppingList | None  # with organic demand

    def keep(self, active: Array) -> None:
        """Keep only the `active` users, who still order."""
        self.users = SimulatedUsers(*(column[active] for column in self.users))
        self.state = PurchaseState(*(column[active] for column in self.state))
        self.ts, self.clicked_items = self.ts[active], self.clicked_items[active]
        self.pending_purchases = self.pending_purchases[active]
        if self.lists is not None:
            self.lists = ShoppingList(*(column[active] for column in self.lists))


def simulate_orders(cfg: Mapping[str, Any], items: SimulatedItems) -> Iterator[Round]:
    """Yield all rounds of all blocks of users."""
    user = np.arange(int(cfg["users"]))
    market = needs.organic_market(cfg, items)
    for number, start in enumerate(range(0, len(user), USERS_PER_BLOCK)):
        rng = np.random.default_rng([cfg["seed"], 1, number])
        users = people.sample_users(cfg, rng, user[start : start + USERS_PER_BLOCK])
        block = _first_orders(items, market, users, rng)
        withhold_rng = np.random.default_rng([cfg["seed"], WITHHOLD_STREAM, number])
        yield from _simulate_block(cfg, items, market, block, (rng, withhold_rng))


def _first_orders(
    items: SimulatedItems, market: OrganicMarket | None, users: SimulatedUsers, rng: np.random.Generator
) -> _Block:
    """Return the state of a block before the first orders of its users."""
    shape = (len(users.user), len(items.price))
    gap = rng.uniform(0, 2, shape[0]) * users.order_gap_days * SECONDS_PER_DAY
    ts = SIMULATION_START + gap.astype(np.int64)
    pending, lists = np.zeros(shape, bool), None
    if market is not None:
        lists = needs.sample_shopping_lists(market, users, rng)
        pending = market.next_order(users, lists, 0, ts).sample(rng)
    return _Block(users, people.initial_state(*shape), ts, np.zeros(shape, bool), pending, lists)


def _simulate_block(
    cfg: Mapping[str, Any],
    items: SimulatedItems,
    market: OrganicMarket | None,
    block: _Block,
    rngs: tuple[np.random.Generator, np.random.Generator],
) -> Iterator[Round]:
    rng, withhold_rng = rngs
    p_examined = behaviour.examination_probability(int(cfg["slots"]), cfg["position_bias"])
    end = SIMULATION_START + int(cfg["days"]) * SECONDS_PER_DAY
    for number in range(MAX_ORDERS_PER_USER):
        active = block.ts < end
        if not active.all():
            block.keep(active)
        if len(block.ts) == 0:
            return
        lines = _order_lines(items, market, block, number, rng)
        users, state, ts = block.users, block.state, block.ts
        responses, next_order = responses_after_orders(
            items, market, users, state, block.lists, number + 1, ts
        )
        needed = None if next_order is None else next_order.sample(rng)
        slate, propensity = select_slates(cfg, items, market, state, ts, rng)
        withheld = withhold_rng.random(len(ts)) < float(cfg.get("withhold") or 0.0)
        shown = np.where(withheld[:, None], -1, slate)
        clicked, purchased = sample_feedback(responses, needed, shown, p_examined, rng)
        order = users.user * MAX_ORDERS_PER_USER + number
        slates = LoggedSlates(slate, propensity, clicked, withheld)
        yield Round(order, users.user, ts, lines, slates, responses)
        for item_mask, slot_mask in ((block.clicked_items, clicked), (block.pending_purchases, purchased)):
            item_mask[:] = False
            np.put_along_axis(item_mask, slate, slot_mask, 1)
        if needed is not None:
            block.pending_purchases |= needed
        block.ts = ts + behaviour.sample_order_gaps(users.order_gap_days, rng)


def _order_lines(
    items: SimulatedItems, market: OrganicMarket | None, block: _Block, number: int, rng: np.random.Generator
) -> OrderLines:
    """Draw the lines of the block's orders, and add them to the state of the block."""
    state, in_basket = block.state, block.pending_purchases
    if market is None:
        in_basket = in_basket | behaviour.sample_basket(
            items, block.users, state, block.clicked_items, block.ts, rng
        )
    state.in_basket[:] = in_basket
    row, item = np.nonzero(in_basket)
    quantity, price = behaviour.sample_quantities_and_prices(items, item, rng)
    people.add_purchases(items, state, row, item, quantity * price)
    if block.lists is not None:
        block.lists.last_order[row, item] = number
    from_slate = (block.clicked_items & block.pending_purchases)[row, item]
    return OrderLines(row, item, quantity, price, from_slate)


def responses_after_orders(
    items: SimulatedItems,
    market: OrganicMarket | None,
    users: SimulatedUsers,
    state: PurchaseState,
    lists: ShoppingList | None,
    order_number: Array | int,
    ts: Array,
) -> tuple[Responses, NextOrder | None]:
    """Return the responses of n users after orders at `ts` [n], and the demand for their next orders.

    The demand is None in a market without organic demand. `order_number` is the number of the next order, an
    int or [n].
    """
    if market is None or lists is None:
        habits = behaviour.habit_features(items, state)
        return Responses(*behaviour.response_probabilities(items, users, state, habits, ts)), None
    next_order = market.next_order(users, lists, order_number, ts)
    return market.responses(users, state, lists, next_order, ts), next_order


def select_slates(
    cfg: Mapping[str, Any],
    items: SimulatedItems,
    market: OrganicMarket | None,
    state: PurchaseState,
    ts: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw slates [n, slots] of the shop's policy; return them and their propensities."""
    slots, exploration = int(cfg["slots"]), cfg["exploration"]
    if market is not None:
        return market.sample_slate(state, ts, rng, slots, exploration)
    score = behaviour.policy_scores(items, behaviour.habit_features(items, state))
    return behaviour.sample_slate(score, items.created_at, ts, rng, slots, exploration)
