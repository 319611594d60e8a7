"""The users of the simulated market: their preferences and their purchases so far."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from simulation.catalog import BRANDS, DEPARTMENTS, LEAVES, NOUNS, PRICE_TIERS, Array, SimulatedItems


class SimulatedUsers(NamedTuple):
    """The preferences and habits of n users."""

    user: Array  # [n] int64
    leaf_preference: Array  # [n, leaves] float32
    brand_preference: Array  # [n, brands] float32
    log_price_level: Array  # [n] float32, log of the price level that the user prefers
    order_gap_days: Array  # [n] float32, mean days between orders
    mean_basket_lines: Array  # [n] float32, mean lines of an order


class PurchaseState(NamedTuple):
    """The purchases of n users, including the order just paid."""

    item_counts: Array  # [n, I] float32, lines of each item
    leaf_counts: Array  # [n, leaves] float32
    brand_counts: Array  # [n, brands] float32
    line_count: Array  # [n] float32
    total_spend: Array  # [n] float32
    in_basket: Array  # [n, I] bool, the order just paid


def sample_users(cfg: Mapping[str, Any], rng: np.random.Generator, user: Array) -> SimulatedUsers:
    """Draw the users with the numbers `user` [n].

    A leaf preference is the sum of the effects of a department, a noun and a price tier.
    """
    n = len(user)
    price_level = rng.normal(0, 0.4, n).astype(np.float32)
    department = rng.normal(0, 0.8, (n, len(DEPARTMENTS))).repeat(len(LEAVES) // len(DEPARTMENTS), axis=1)
    noun = rng.normal(0, 1.2, (n, len(NOUNS))).repeat(len(PRICE_TIERS), axis=1)
    price_tier = np.tile([-0.8, 0.8], len(NOUNS)) * price_level[:, None]
    return SimulatedUsers(
        user=user,
        leaf_preference=(department + noun + price_tier).astype(np.float32),
        brand_preference=rng.normal(0, 0.8, (n, len(BRANDS))).astype(np.float32),
        log_price_level=price_level,
        order_gap_days=(cfg["gap"] * rng.uniform(0.5, 1.5, n)).astype(np.float32),
        mean_basket_lines=rng.uniform(1, 4, n).astype(np.float32),
    )


def initial_state(n_users: int, n_items: int) -> PurchaseState:
    """The state of users before their first order."""
    return PurchaseState(
        item_counts=np.zeros((n_users, n_items), np.float32),
        leaf_counts=np.zeros((n_users, len(LEAVES)), np.float32),
        brand_counts=np.zeros((n_users, len(BRANDS)), np.float32),
        line_count=np.zeros(n_users, np.float32),
        total_spend=np.zeros(n_users, np.float32),
        in_basket=np.zeros((n_users, n_items), bool),
    )


def add_purchases(items: SimulatedItems, state: PurchaseState, row: Array, item: Array, spend: Array) -> None:
    """Add m order lines to the state.

    `row` [m] is the user's row; `item` [m] and `spend` [m] are those of the lines.
    """
    state.item_counts[row, item] += 1
    np.add.at(state.leaf_counts, (row, items.leaf[item]), 1)
    np.add.at(state.brand_counts, (row, items.brand[item]), 1)
    np.add.at(state.line_count, row, 1)
    np.add.at(state.total_spend, row, spend)
