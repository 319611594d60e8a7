"""The world behind `data=simulated`: a catalog, people with tastes, and what makes them buy and click.

Everything here is a plain function of arrays; `data/sources/simulated.py` lets time pass in it. What people
answer to is written in terms of their own history (`State`), as docs/simulated.md says, so that a model that
reads histories can learn nearly all of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
SIMULATION_START = 1_704_067_200  # 2024-01-01 UTC, the first day of the log
DAY = 86_400
NEW_ITEM_SHARE = 0.15  # share of the items that arrive while the log runs
DOUBLE_QUANTITY_PROBABILITY, DISCOUNT_PROBABILITY = (
    0.2,
    0.1,
)  # chance that a line holds two, and that it is sold at 80 %
MAX_BASKET_LINES = 8  # lines of a basket by taste
MEAN_SPEND_RATIO = (1 + DOUBLE_QUANTITY_PROBABILITY) * (
    1 - 0.2 * DISCOUNT_PROBABILITY
)  # mean spend on a bought item over its list price

DEPARTMENTS = {
    "pantry": ("coffee", "tea", "pasta", "rice", "honey", "spices"),
    "bakery": ("bread", "cake", "cookies", "crackers", "granola", "muffins"),
    "fresh": ("apples", "salad", "cheese", "yogurt", "fish", "poultry"),
    "home": ("candles", "towels", "lamps", "cushions", "vases", "baskets"),
    "kitchen": ("knives", "pans", "mugs", "plates", "jars", "kettles"),
    "care": ("soap", "shampoo", "lotion", "perfume", "razors", "brushes"),
    "pets": ("kibble", "litter", "treats", "leashes", "toys", "beds"),
    "garden": ("seeds", "pots", "soil", "gloves", "hoses", "lanterns"),
}
PRICE_TIERS = ("everyday", "fine")
NOUNS = [noun for nouns in DEPARTMENTS.values() for noun in nouns]
LEAVES = [f"{d}/{noun}/{line}" for d, nouns in DEPARTMENTS.items() for noun in nouns for line in PRICE_TIERS]
BRANDS = [first + last for first in ("Nor", "Al", "Bel", "Cor", "Mira", "Sol", "Tan", "Ver")
          for last in ("ello", "ora", "wick", "mond", "issa")]  # fmt: skip
ADJECTIVES = (
    "Amber", "Blue", "Classic", "Dark", "Earl", "Fresh", "Golden", "Hearty", "Ivory", "Jolly",
    "Light", "Mellow", "Natural", "Old", "Pure", "Quiet", "Rustic", "Soft", "True", "White",
)  # fmt: skip


class SimulatedItems(NamedTuple):
    """I items, in the order in which they arrive."""

    leaf: Array  # [I] int64, position in LEAVES
    brand: Array  # [I] int64, position in BRANDS
    adjective: Array  # [I] int64, position in ADJECTIVES
    price: Array  # [I] float32, list price
    margin: Array  # [I] float32, share of the price that the shop keeps
    appeal: Array  # [I] float32, what everybody likes of it, standard normal
    created_at: Array  # [I] int64, Unix seconds


class SimulatedUsers(NamedTuple):
    """n users."""

    user: Array  # [n] int64
    leaf_preference: Array  # [n, leaves] float32
    brand_preference: Array  # [n, brands] float32
    log_price_level: Array  # [n] float32, log of the price level that the user prefers
    order_gap_days: Array  # [n] float32, mean days between orders
    mean_basket_lines: Array  # [n] float32, mean lines of an order


class PurchaseState(NamedTuple):
    """What n users have bought so far, the order just paid included."""

    item_counts: Array  # [n, I] float32, lines of each item
    leaf_counts: Array  # [n, leaves] float32
    brand_counts: Array  # [n, brands] float32
    line_count: Array  # [n] float32
    total_spend: Array  # [n] float32
    in_basket: Array  # [n, I] bool, the order just paid


class HabitFeatures(NamedTuple):
    """What the past says of every item [n, I] float32."""

    log_leaf_share: Array  # log share of its leaf category among the user's lines
    log_brand_share: Array  # log share of its brand
    log_item_count: Array  # log of 1 + the user's lines of it


def initial_state(users: int, items: int) -> PurchaseState:
    """The state of users before their first order."""
    shapes = {
        "item_counts": (users, items), "leaf_counts": (users, len(LEAVES)),
        "brand_counts": (users, len(BRANDS)),
    }
    counts = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    totals = {name: np.zeros(users, np.float32) for name in ("line_count", "total_spend")}
    return PurchaseState(**counts, **totals, in_basket=np.zeros((users, items), bool))


def sample_items(cfg: Mapping[str, Any]) -> SimulatedItems:
    """The catalog of `items` items."""
    rng, n = np.random.default_rng([cfg["seed"], 0]), int(cfg["items"])
    leaf = rng.permutation(np.arange(n) % len(LEAVES))
    usual = rng.normal(2.0, 0.5, len(NOUNS))[leaf // len(PRICE_TIERS)] + 0.6 * (leaf % len(PRICE_TIERS))
    late = np.arange(n) >= n - int(NEW_ITEM_SHARE * n)
    return SimulatedItems(
        leaf=leaf,
        brand=rng.integers(0, len(BRANDS), n),
        adjective=rng.integers(0, len(ADJECTIVES), n),
        price=np.round(np.exp(usual + rng.normal(0, 0.25, n)) + 0.01, 2).astype(np.float32),
        margin=np.round(rng.uniform(0.1, 0.5, n), 3).astype(np.float32),
        appeal=rng.standard_normal(n, np.float32),
        created_at=SIMULATION_START
        + np.sort(np.where(late, rng.uniform(0, cfg["days"], n) * DAY, 0)).astype(np.int64),
    )


def sample_users(cfg: Mapping[str, Any], rng: np.random.Generator, user: Array) -> SimulatedUsers:
    """The users with these numbers. Taste is the sum of a department's, a noun's and a price line's share."""
    n = len(user)
    level = rng.normal(0, 0.4, n).astype(np.float32)
    department = rng.normal(0, 0.8, (n, len(DEPARTMENTS))).repeat(len(LEAVES) // len(DEPARTMENTS), axis=1)
    noun = rng.normal(0, 1.2, (n, len(NOUNS))).repeat(len(PRICE_TIERS), axis=1)
    fine = np.tile([-0.8, 0.8], len(NOUNS)) * level[:, None]
    return SimulatedUsers(
        user=user,
        leaf_preference=(department + noun + fine).astype(np.float32),
        brand_preference=rng.normal(0, 0.8, (n, len(BRANDS))).astype(np.float32),
        log_price_level=level,
        order_gap_days=(cfg["gap"] * rng.uniform(0.5, 1.5, n)).astype(np.float32),
        mean_basket_lines=rng.uniform(1, 4, n).astype(np.float32),
    )


def basket_logits(goods: SimulatedItems, people: SimulatedUsers, state: PurchaseState) -> Array:
    """Log-weight of every item in the next basket [n, I]: taste, brand, price level, appeal and habit."""
    dear = np.log(goods.price) - 2.3 - people.log_price_level[:, None]
    taste = people.leaf_preference[:, goods.leaf] + people.brand_preference[:, goods.brand]
    return taste + 0.8 * goods.appeal - 0.4 * dear**2 + 0.7 * np.log1p(state.item_counts)


def habit_features(goods: SimulatedItems, state: PurchaseState) -> HabitFeatures:
    """Log shares and counts of the user's lines, smoothed by one line."""
    lines = np.log1p(state.line_count)[:, None]
    leaf, brand = np.log1p(state.leaf_counts) - lines, np.log1p(state.brand_counts) - lines
    return HabitFeatures(leaf[:, goods.leaf], brand[:, goods.brand], np.log1p(state.item_counts))


def response_probabilities(
    goods: SimulatedItems, people: SimulatedUsers, state: PurchaseState, habits: HabitFeatures, now: Array
) -> tuple[Array, Array]:
    """p(click | examined) and p(purchase | click) of every item for n users at `now` [n]: [n, I] each.

    Both rise with the same taste, part of it hidden, so that who clicks is likelier to buy than who does not.
    """
    dear = np.clip(np.log(goods.price) - np.log(state.total_spend / state.line_count)[:, None], -2, 2)
    taste = people.leaf_preference[:, goods.leaf]
    new = (now[:, None] - goods.created_at < 28 * DAY) & (goods.created_at > SIMULATION_START)
    click = (
        1.2
        + 0.7 * habits.log_leaf_share
        + 0.35 * habits.log_brand_share
        + 0.4 * habits.log_item_count
        + 0.15 * goods.appeal
    )
    click += 0.25 * taste - 0.4 * dear**2 - 1.0 * state.in_basket + 0.5 * new
    buy = 0.8 + 0.5 * habits.log_leaf_share + 0.2 * habits.log_brand_share + 0.6 * habits.log_item_count
    buy += 0.25 * taste - 0.5 * dear**2 - 0.5 * dear - 1.0 * state.in_basket
    return 1 / (1 + np.exp(-click)), 1 / (1 + np.exp(-buy))


def policy_scores(goods: SimulatedItems, habits: HabitFeatures) -> Array:
    """The shop's own score of every item [n, I]: what sells, and what the user bought before.

    It is not what people answer to. So position and relevance are confounded, in the way that misleads a
    model that does not know of positions: what the shop likes looks better than it is.
    """
    return 1.4 * goods.appeal + 1.2 * habits.log_item_count + 0.5 * habits.log_leaf_share


def sample_basket(
    goods: SimulatedItems,
    people: SimulatedUsers,
    state: PurchaseState,
    decided: Array,
    now: Array,
    rng: np.random.Generator,
) -> Array:
    """What is bought by taste alone [n, I] bool: softmax draws without replacement (Gumbel top-k)."""
    score = basket_logits(goods, people, state) + gumbel_noise(rng, decided.shape)
    score[decided | (goods.created_at > now[:, None])] = -np.inf
    first = top_k(score, min(MAX_BASKET_LINES, score.shape[1]))
    lines = np.minimum(1 + rng.poisson(people.mean_basket_lines - 1), MAX_BASKET_LINES)
    bought = np.zeros(decided.shape, bool)
    np.put_along_axis(bought, first, np.arange(first.shape[1]) < lines[:, None], 1)
    return bought


def add_purchases(goods: SimulatedItems, state: PurchaseState, who: Array, what: Array, spend: Array) -> None:
    """Lines of items `what`, bought by the users in rows `who` of the state, enter it: [m] each."""
    state.item_counts[who, what] += 1
    np.add.at(state.leaf_counts, (who, goods.leaf[what]), 1)
    np.add.at(state.brand_counts, (who, goods.brand[what]), 1)
    np.add.at(state.line_count, who, 1)
    np.add.at(state.total_spend, who, spend)


def sample_slate(
    goods: SimulatedItems,
    habits: HabitFeatures,
    now: Array,
    rng: np.random.Generator,
    slots: int,
    exploration: float,
) -> tuple[Array, Array]:
    """Items by position [n, slots] and the chance that each had of its slot, given those above it.

    Every slot is filled from what is left: with chance `exploration` evenly, else by softmax of the policy.
    """
    score = policy_scores(goods, habits)
    score[goods.created_at > now[:, None]] = -np.inf
    weight = np.exp(score.astype(np.float64))
    there = np.searchsorted(goods.created_at, now, side="right")  # items are in order of arrival
    queue = top_k(score + gumbel_noise(rng, score.shape), 2 * slots)
    explores = rng.random((len(now), slots)) < exploration
    who, total = np.arange(len(now)), weight.sum(1)
    shown, propensity = (np.zeros((len(now), slots), t) for t in (np.int64, np.float64))
    for slot in range(slots):
        taken = np.sort(shown[:, :slot], axis=1)
        even = rng.integers(0, there - slot)
        for other in taken.T:  # the even-th of those that are left
            even += even >= other
        free = ~(queue[:, :, None] == taken[:, None, :]).any(2)
        drawn = np.where(explores[:, slot], even, queue[who, free.argmax(1)])
        shown[:, slot] = drawn
        propensity[:, slot] = (1 - exploration) * weight[who, drawn] / total + exploration / (there - slot)
        total = total - weight[who, drawn]
    return shown, np.clip(propensity, 1e-12, 1.0)


def gumbel_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What, added to scores, makes the best of them a draw by softmax."""
    return -np.log(np.maximum(rng.standard_exponential(shape, np.float32), 1e-30))  # a draw can be 0


def top_k(score: Array, k: int) -> Array:
    """Columns of the k highest of every row, best first: [n, k]."""
    found = (
        np.argpartition(-score, k - 1, axis=1)[:, :k] if k < score.shape[1] else np.argsort(-score, axis=1)
    )
    return np.take_along_axis(found, np.argsort(-np.take_along_axis(score, found, 1), axis=1), 1)


def item_titles(goods: SimulatedItems) -> list[str]:
    """`Brand Adjective Noun`, `Fine` in front of the dearer line."""
    return [
        ("Fine " if leaf % len(PRICE_TIERS) else "")
        + f"{BRANDS[b]} {ADJECTIVES[a]} {NOUNS[leaf // len(PRICE_TIERS)].title()}"
        for leaf, b, a in zip(goods.leaf, goods.brand, goods.adjective, strict=True)
    ]


def examination_probability(slots: int, position_bias: float) -> Array:
    """p(examined | position) [slots]: position ** -position_bias, so the first is always seen."""
    return np.arange(1, slots + 1) ** -float(position_bias)
