"""Purchases and clicks of users of the simulated market, and slates of the shop's own policy.

Response probabilities depend on the user's own purchases (`PurchaseState`), so a model that reads purchase
histories can learn most of their variation.
"""

from typing import NamedTuple

import numpy as np

from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START, Array, SimulatedItems
from simulation.people import PurchaseState, SimulatedUsers

MAX_BASKET_LINES = 8  # lines of a basket, besides those that a slate led to
DOUBLE_QUANTITY_PROBABILITY = 0.2  # of an order line
DISCOUNT_PROBABILITY = 0.1  # of an order line; it is then sold at 80 % of the list price
# Mean spend on an order line over the list price of its item.
MEAN_SPEND_RATIO = (1 + DOUBLE_QUANTITY_PROBABILITY) * (1 - 0.2 * DISCOUNT_PROBABILITY)
NEW_ITEM_DAYS = 28  # in which a new item is clicked more often


class HabitFeatures(NamedTuple):
    """Features of every item from the purchases of n users; each is [n, I] float32."""

    log_leaf_share: Array  # log share of the item's leaf category among the user's order lines
    log_brand_share: Array  # log share of its brand
    log_item_count: Array  # log of 1 + the user's order lines of it


def habit_features(items: SimulatedItems, state: PurchaseState) -> HabitFeatures:
    """Return log shares and log counts of the user's order lines, smoothed by one line."""
    lines = np.log1p(state.line_count)[:, None]
    leaf, brand = np.log1p(state.leaf_counts) - lines, np.log1p(state.brand_counts) - lines
    return HabitFeatures(leaf[:, items.leaf], brand[:, items.brand], np.log1p(state.item_counts))


def basket_logits(items: SimulatedItems, users: SimulatedUsers, state: PurchaseState) -> Array:
    """Logits of every item for the next basket [n, I]: preferences, price level, appeal and habit."""
    price_gap = np.log(items.price) - 2.3 - users.log_price_level[:, None]
    preference = users.leaf_preference[:, items.leaf] + users.brand_preference[:, items.brand]
    return preference + 0.8 * items.appeal - 0.4 * price_gap**2 + 0.7 * np.log1p(state.item_counts)


def sample_basket(
    items: SimulatedItems,
    users: SimulatedUsers,
    state: PurchaseState,
    excluded: Array,
    ts: Array,
    rng: np.random.Generator,
) -> Array:
    """Draw the baskets at `ts` [n] by softmax without replacement (Gumbel top-k): [n, I] bool.

    `excluded` [n, I] bool marks items whose purchase is already decided by a click on the last slate.
    """
    score = basket_logits(items, users, state) + gumbel_noise(rng, excluded.shape)
    score[excluded | (items.created_at > ts[:, None])] = -np.inf
    ranked = top_k(score, min(MAX_BASKET_LINES, score.shape[1]))
    lines = np.minimum(1 + rng.poisson(users.mean_basket_lines - 1), MAX_BASKET_LINES)
    basket = np.zeros(excluded.shape, bool)
    np.put_along_axis(basket, ranked, np.arange(ranked.shape[1]) < lines[:, None], 1)
    return basket


def sample_quantities_and_prices(
    items: SimulatedItems, item: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Draw quantity [m] int64 and unit price [m] of order lines of these items [m]."""
    quantity = 1 + (rng.random(len(item)) < DOUBLE_QUANTITY_PROBABILITY)
    price = np.round(items.price[item] * np.where(rng.random(len(item)) < DISCOUNT_PROBABILITY, 0.8, 1.0), 2)
    return quantity, price


def sample_order_gaps(order_gap_days: Array, rng: np.random.Generator) -> Array:
    """Draw the seconds [n] int64 until the next order of users with these mean gaps [n]."""
    gap_days = (0.1 + 0.9 * rng.gamma(2, 0.5, len(order_gap_days))) * order_gap_days
    return (gap_days * SECONDS_PER_DAY).astype(np.int64)


def log_price_gaps(items: SimulatedItems, state: PurchaseState) -> Array:
    """Return the log of price / the user's mean line spend, from -2 to 2, for every item [n, I]."""
    return np.clip(np.log(items.price) - np.log(state.total_spend / state.line_count)[:, None], -2, 2)


def response_probabilities(
    items: SimulatedItems, users: SimulatedUsers, state: PurchaseState, habits: HabitFeatures, ts: Array
) -> tuple[Array, Array]:
    """Return p(click | examined) and p(purchase | click) of every item for n users: [n, I] each.

    The probabilities are those at the times `ts` [n].
    """
    click, purchase = response_logits(items, users, state, habits, ts)
    return sigmoid(click), sigmoid(purchase)


def response_logits(
    items: SimulatedItems, users: SimulatedUsers, state: PurchaseState, habits: HabitFeatures, ts: Array
) -> tuple[Array, Array]:
    """Logits of `response_probabilities`.

    Both rise with the same partly hidden preference, so users who click are likelier to buy.
    """
    price_gap = log_price_gaps(items, state)
    preference = users.leaf_preference[:, items.leaf]
    is_new = (ts[:, None] - items.created_at < NEW_ITEM_DAYS * SECONDS_PER_DAY) & (
        items.created_at > SIMULATION_START
    )
    click = (
        1.2
        + 0.7 * habits.log_leaf_share
        + 0.35 * habits.log_brand_share
        + 0.4 * habits.log_item_count
        + 0.15 * items.appeal
    )
    click += 0.25 * preference - 0.4 * price_gap**2 - 1.0 * state.in_basket + 0.5 * is_new
    purchase = 0.8 + 0.5 * habits.log_leaf_share + 0.2 * habits.log_brand_share + 0.6 * habits.log_item_count
    purchase += 0.25 * preference - 0.5 * price_gap**2 - 0.5 * price_gap - 1.0 * state.in_basket
    return click, purchase


def sigmoid(logit: Array) -> Array:
    """The probabilities of these logits."""
    return 1 / (1 + np.exp(-logit))


def policy_scores(
    items: SimulatedItems, habits: HabitFeatures, habit_weight: float = 1.2, leaf_weight: float = 0.5
) -> Array:
    """The shop's own score of every item [n, I], from the item's appeal and the user's purchases.

    The score is not the users' true preference, but it decides the positions. So position and relevance are
    confounded: a model without positions overrates items that the shop ranks high.
    """
    return 1.4 * items.appeal + habit_weight * habits.log_item_count + leaf_weight * habits.log_leaf_share


def sample_slate(
    score: Array,
    created_at: Array,
    ts: Array,
    rng: np.random.Generator,
    slots: int,
    exploration: float,
) -> tuple[Array, Array]:
    """Draw slates by item scores [n, I].

    Returns item columns [n, slots], top slot first, and propensities [n, slots].

    Each slot is drawn from the remaining items: uniformly with probability `exploration`, else by the softmax
    of the scores. A propensity is conditional on the items above. An item is drawn only after its arrival:
    `created_at` [I] has the arrivals in Unix seconds, in rising order, and `ts` [n] the times of the slates.
    """
    score = np.where(created_at > ts[:, None], -np.inf, score)
    weight = np.exp(score.astype(np.float64))
    n_available = np.searchsorted(created_at, ts, side="right")
    ranked = top_k(score + gumbel_noise(rng, score.shape), 2 * slots)
    explores = rng.random((len(ts), slots)) < exploration
    row, weight_left = np.arange(len(ts)), weight.sum(1)
    slate, propensity = np.zeros((len(ts), slots), np.int64), np.zeros((len(ts), slots), np.float64)
    for slot in range(slots):
        used = np.sort(slate[:, :slot], axis=1)
        uniform = rng.integers(0, n_available - slot)
        for used_item in used.T:  # in rising order: the draw becomes a number among the items that are left
            uniform += uniform >= used_item
        is_free = ~(ranked[:, :, None] == used[:, None, :]).any(2)
        item = np.where(explores[:, slot], uniform, ranked[row, is_free.argmax(1)])
        slate[:, slot] = item
        propensity[:, slot] = (1 - exploration) * weight[row, item] / weight_left + exploration / (
            n_available - slot
        )
        weight_left = weight_left - weight[row, item]
    return slate, np.clip(propensity, 1e-12, 1.0)


def examination_probability(slots: int, position_bias: float) -> Array:
    """Return p(examined | position) [slots] = position ** -position_bias.

    The first slot has position 1, so it is always examined.
    """
    return np.arange(1, slots + 1) ** -float(position_bias)


def gumbel_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw standard Gumbel noise.

    The item with the highest sum of score and noise is a draw by softmax of the scores.
    """
    return -np.log(np.maximum(rng.standard_exponential(shape, np.float32), 1e-30))  # a draw can be 0


def top_k(score: Array, k: int) -> Array:
    """Columns of the k highest scores of every row, best first: [n, k]."""
    top = np.argpartition(-score, k - 1, axis=1)[:, :k] if k < score.shape[1] else np.argsort(-score, axis=1)
    return np.take_along_axis(top, np.argsort(-np.take_along_axis(score, top, 1), axis=1), 1)
