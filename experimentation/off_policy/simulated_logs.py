"""Logs of a simulated shop in which the value of any policy is known.

Catalog, users and responses come from `data=simulated` (docs/explanation/simulated_market.md). The logging
policy draws slates by the softmax of the shop's score; the target policy knows more about the users'
responses. Histories do not depend on slates, so every policy gets the same checkouts.

Two kinds of shoppers read a slate:

    independent   examine each slot with p(examined | slot), independently of the other slots
    cascade       also leave after a click (Craswell et al. 2008), so a slot depends on the slots above

Both kinds also buy without the slot, mostly items that they like. A share WITHHOLD of the slates is withheld.
The reward `incremental revenue` comes from uplift_terms.py; `click` and `revenue` are measured with all
slates shown.
"""

from typing import NamedTuple

import numpy as np

from experimentation.off_policy import plackett_luce
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE
from experimentation.off_policy.uplift_terms import group_weights, mean_slot_revenue, uplift_terms
from simulation import behaviour
from simulation.catalog import SimulatedItems, sample_items
from simulation.people import PurchaseState, SimulatedUsers, add_purchases, initial_state, sample_users

Array = np.ndarray
ITEM_SETTINGS = {"items": 24, "days": 90, "gap": 6.0, "seed": 0}
N_USERS, CHECKOUTS_PER_USER, SLOTS = 1000, 2, 6
WARMUP_ORDERS = 3  # orders of every user before the first checkout
EXAMINATION_PROBABILITY = behaviour.examination_probability(SLOTS, position_bias=0.7)  # [K]
MAX_BASKET_LINES = 4
SIMULATED_SHOPPERS = ("independent", "cascade")
REWARDS = ("click", "revenue", INCREMENTAL_REVENUE)
WITHHOLD = 0.2  # probability that a slate is held back
ORGANIC_DEMAND = 1.0  # p(bought without the slot) as a multiple of p(click and purchase | examined)


class SimulatedCheckouts(NamedTuple):
    """The n checkouts with the true probabilities of all I items."""

    user: Array  # [n] int64
    features: Array  # [n, I, F] that a reward model may read
    p_click_given_examined: Array  # [n, I]
    p_purchase_given_click: Array  # [n, I]
    price: Array  # [n, I]
    logging_score: Array  # [n, I] scores of the logging policy
    target_score: Array  # [n, I] scores of the target policy


class SimulatedLog(NamedTuple):
    """Slates with their rewards; each array is [n, K]."""

    slate: Array  # int64
    rewards: dict[str, Array]


def simulate_checkouts(rng: np.random.Generator, n_users: int = N_USERS) -> SimulatedCheckouts:
    """Draw CHECKOUTS_PER_USER checkouts of each of `n_users` users."""
    items = sample_items(ITEM_SETTINGS)
    users = sample_users(ITEM_SETTINGS, rng, np.arange(n_users))
    state = initial_state(n_users, len(items.price))
    parts: list[SimulatedCheckouts] = []
    for order in range(WARMUP_ORDERS + CHECKOUTS_PER_USER):
        simulate_next_order(items, users, state, rng, np.ones(len(items.price), bool))
        if order < WARMUP_ORDERS:
            continue
        habits = behaviour.habit_features(items, state)
        ts = np.full(n_users, items.created_at.max())
        p_click, p_purchase = behaviour.response_probabilities(items, users, state, habits, ts)
        log_price = np.broadcast_to(np.log(items.price), p_click.shape)
        features = [
            np.ones_like(p_click),
            habits.log_leaf_share,
            habits.log_brand_share,
            habits.log_item_count,
            state.in_basket,
            log_price,
            log_price**2,
        ]
        target_score = habits.log_leaf_share + habits.log_item_count + 0.5 * items.appeal
        parts.append(
            SimulatedCheckouts(
                user=users.user,
                features=np.stack(features, 2).astype(np.float64),
                p_click_given_examined=p_click.astype(np.float64),
                p_purchase_given_click=p_purchase.astype(np.float64),
                price=np.broadcast_to(items.price, p_purchase.shape).astype(np.float64),
                logging_score=0.7 * behaviour.policy_scores(items, habits).astype(np.float64),
                target_score=target_score.astype(np.float64),
            )
        )
    return SimulatedCheckouts(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def simulate_next_order(
    items: SimulatedItems,
    users: SimulatedUsers,
    state: PurchaseState,
    rng: np.random.Generator,
    available: Array,
) -> None:
    """Draw one more order of every user from the available items [I] bool, and update `state`."""
    lines = np.clip(rng.poisson(users.mean_basket_lines), 1, MAX_BASKET_LINES)
    logits = np.where(available, behaviour.basket_logits(items, users, state), -np.inf)
    ranked = plackett_luce.sample_slates(logits.astype(np.float64), MAX_BASKET_LINES, rng)
    row, line = np.nonzero(np.arange(MAX_BASKET_LINES) < lines[:, None])
    item = ranked[row, line]
    state.in_basket[:] = False
    state.in_basket[row, item] = True
    add_purchases(items, state, row, item, items.price[item])


def simulate_log(checkouts: SimulatedCheckouts, shopper: str, rng: np.random.Generator) -> SimulatedLog:
    """Draw slates of the logging policy, the clicks on them, and the spend after the clicks."""
    slate = plackett_luce.sample_slates(checkouts.logging_score, SLOTS, rng)
    p_click, p_purchase, price = _slate_truth(checkouts, slate)
    clicked, purchased, is_double, is_discounted = rng.random((4, *slate.shape)) < np.stack(
        [
            EXAMINATION_PROBABILITY * p_click,
            p_purchase,
            np.full(slate.shape, behaviour.DOUBLE_QUANTITY_PROBABILITY),
            np.full(slate.shape, behaviour.DISCOUNT_PROBABILITY),
        ]
    )
    if shopper == "cascade":
        clicked &= np.cumsum(clicked, axis=1) == 1
    spend = price * (1 + is_double) * np.where(is_discounted, 0.8, 1.0)
    sold = clicked & purchased  # by the slot
    needs, withheld = rng.spawn(2)  # apart, so that the other draws are as without organic demand
    is_organic = needs.random(slate.shape) < _organic_probability(checkouts, slate)
    is_withheld = withheld.random(len(slate)) < WITHHOLD
    bought = is_organic | (sold & ~is_withheld[:, None])
    weights = group_weights(is_withheld, np.full(len(slate), WITHHOLD))
    predicted = mean_slot_revenue(bought * spend, weights)
    rewards = {
        "click": clicked.astype(np.float64),
        "revenue": sold * spend,
        INCREMENTAL_REVENUE: uplift_terms(bought * spend, weights, predicted),
    }
    return SimulatedLog(slate, rewards)


def true_rewards(
    checkouts: SimulatedCheckouts, shopper: str, score: Array, rng: np.random.Generator
) -> dict[str, Array]:
    """Return the true expected rewards [n] of one slate per checkout, drawn by the policy of these scores."""
    slate = plackett_luce.sample_slates(score, SLOTS, rng)
    p_click, p_purchase, price = _slate_truth(checkouts, slate)
    p_click = EXAMINATION_PROBABILITY * p_click
    if shopper == "cascade":
        p_click = p_click * np.cumprod(np.c_[np.ones(len(p_click)), 1 - p_click[:, :-1]], axis=1)
    revenue = p_click * p_purchase * price * behaviour.MEAN_SPEND_RATIO
    incremental = revenue * (1 - _organic_probability(checkouts, slate))
    rewards = {"click": p_click, "revenue": revenue, INCREMENTAL_REVENUE: incremental}
    return {name: reward.sum(1) for name, reward in rewards.items()}


def _organic_probability(checkouts: SimulatedCheckouts, slate: Array) -> Array:
    """Return p(bought without the slot) [n, K] of the items of slates."""
    p_click, p_purchase, _ = _slate_truth(checkouts, slate)
    return np.minimum(ORGANIC_DEMAND * p_click * p_purchase, 0.9)


def _slate_truth(checkouts: SimulatedCheckouts, slate: Array) -> tuple[Array, Array, Array]:
    """Return p(click | examined), p(purchase | click) and price of the items of slates: [n, K] each."""
    p_click = np.take_along_axis(checkouts.p_click_given_examined, slate, 1)
    p_purchase = np.take_along_axis(checkouts.p_purchase_given_click, slate, 1)
    return p_click, p_purchase, np.take_along_axis(checkouts.price, slate, 1)
