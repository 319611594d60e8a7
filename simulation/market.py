"""The world behind `data=simulated`: a catalog, people with tastes, and what makes them buy and click.

Everything here is a plain function of arrays; `data/sources/simulated.py` lets time pass in it. What people
answer to is written in terms of their own history (`State`), as docs/simulated.md says, so that a model that
reads histories can learn nearly all of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
START = 1_704_067_200  # 2024-01-01 UTC, the first day of the log
DAY = 86_400
LATE = 0.15  # share of the items that arrive while the log runs
BULK, OFFER = 0.2, 0.1  # chance that a line holds two, and that it is sold at 80 %
LARGEST = 8  # lines of a basket by taste
SPEND = (1 + BULK) * (1 - 0.2 * OFFER)  # mean spend on a bought item over its list price

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
LINES = ("everyday", "fine")
NOUNS = [noun for nouns in DEPARTMENTS.values() for noun in nouns]
LEAVES = [f"{d}/{noun}/{line}" for d, nouns in DEPARTMENTS.items() for noun in nouns for line in LINES]
BRANDS = [first + last for first in ("Nor", "Al", "Bel", "Cor", "Mira", "Sol", "Tan", "Ver")
          for last in ("ello", "ora", "wick", "mond", "issa")]  # fmt: skip
ADJECTIVES = (
    "Amber", "Blue", "Classic", "Dark", "Earl", "Fresh", "Golden", "Hearty", "Ivory", "Jolly",
    "Light", "Mellow", "Natural", "Old", "Pure", "Quiet", "Rustic", "Soft", "True", "White",
)  # fmt: skip


class Goods(NamedTuple):
    """I items, in the order in which they arrive."""

    leaf: Array  # [I] int64, position in LEAVES
    brand: Array  # [I] int64, position in BRANDS
    adjective: Array  # [I] int64, position in ADJECTIVES
    price: Array  # [I] float32, list price
    margin: Array  # [I] float32, share of the price that the shop keeps
    appeal: Array  # [I] float32, what everybody likes of it, standard normal
    created: Array  # [I] int64, Unix seconds


class People(NamedTuple):
    """n users."""

    user: Array  # [n] int64
    taste: Array  # [n, leaves] float32
    loyalty: Array  # [n, brands] float32
    level: Array  # [n] float32, log of the price level that the user prefers
    gap: Array  # [n] float32, mean days between orders
    lines: Array  # [n] float32, mean lines of an order


class State(NamedTuple):
    """What n users have bought so far, the order just paid included."""

    items: Array  # [n, I] float32, lines of each item
    leaves: Array  # [n, leaves] float32
    brands: Array  # [n, brands] float32
    lines: Array  # [n] float32
    spend: Array  # [n] float32
    basket: Array  # [n, I] bool, the order just paid


class Habits(NamedTuple):
    """What the past says of every item [n, I] float32."""

    leaf: Array  # log share of its leaf category among the user's lines
    brand: Array  # log share of its brand
    own: Array  # log of 1 + the user's lines of it


def no_history(users: int, items: int) -> State:
    """The state of users before their first order."""
    shapes = {"items": (users, items), "leaves": (users, len(LEAVES)), "brands": (users, len(BRANDS))}
    counts = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    totals = {name: np.zeros(users, np.float32) for name in ("lines", "spend")}
    return State(**counts, **totals, basket=np.zeros((users, items), bool))


def goods(cfg: Mapping[str, Any]) -> Goods:
    """The catalog of `items` items."""
    rng, n = np.random.default_rng([cfg["seed"], 0]), int(cfg["items"])
    leaf = rng.permutation(np.arange(n) % len(LEAVES))
    usual = rng.normal(2.0, 0.5, len(NOUNS))[leaf // len(LINES)] + 0.6 * (leaf % len(LINES))
    late = np.arange(n) >= n - int(LATE * n)
    return Goods(
        leaf=leaf,
        brand=rng.integers(0, len(BRANDS), n),
        adjective=rng.integers(0, len(ADJECTIVES), n),
        price=np.round(np.exp(usual + rng.normal(0, 0.25, n)) + 0.01, 2).astype(np.float32),
        margin=np.round(rng.uniform(0.1, 0.5, n), 3).astype(np.float32),
        appeal=rng.standard_normal(n, np.float32),
        created=START + np.sort(np.where(late, rng.uniform(0, cfg["days"], n) * DAY, 0)).astype(np.int64),
    )


def people(cfg: Mapping[str, Any], rng: np.random.Generator, user: Array) -> People:
    """The users with these numbers. Taste is the sum of a department's, a noun's and a price line's share."""
    n = len(user)
    level = rng.normal(0, 0.4, n).astype(np.float32)
    department = rng.normal(0, 0.8, (n, len(DEPARTMENTS))).repeat(len(LEAVES) // len(DEPARTMENTS), axis=1)
    noun = rng.normal(0, 1.2, (n, len(NOUNS))).repeat(len(LINES), axis=1)
    fine = np.tile([-0.8, 0.8], len(NOUNS)) * level[:, None]
    return People(
        user=user,
        taste=(department + noun + fine).astype(np.float32),
        loyalty=rng.normal(0, 0.8, (n, len(BRANDS))).astype(np.float32),
        level=level,
        gap=(cfg["gap"] * rng.uniform(0.5, 1.5, n)).astype(np.float32),
        lines=rng.uniform(1, 4, n).astype(np.float32),
    )


def wanted(goods: Goods, people: People, state: State) -> Array:
    """Log-weight of every item in the next basket [n, I]: taste, brand, price level, appeal and habit."""
    dear = np.log(goods.price) - 2.3 - people.level[:, None]
    taste = people.taste[:, goods.leaf] + people.loyalty[:, goods.brand]
    return taste + 0.8 * goods.appeal - 0.4 * dear**2 + 0.7 * np.log1p(state.items)


def habits(goods: Goods, state: State) -> Habits:
    """Log shares and counts of the user's lines, smoothed by one line."""
    lines = np.log1p(state.lines)[:, None]
    leaf, brand = np.log1p(state.leaves) - lines, np.log1p(state.brands) - lines
    return Habits(leaf[:, goods.leaf], brand[:, goods.brand], np.log1p(state.items))


def answers(goods: Goods, people: People, state: State, habits: Habits, now: Array) -> tuple[Array, Array]:
    """p(click | examined) and p(purchase | click) of every item for n users at `now` [n]: [n, I] each.

    Both rise with the same taste, part of it hidden, so that who clicks is likelier to buy than who does not.
    """
    dear = np.clip(np.log(goods.price) - np.log(state.spend / state.lines)[:, None], -2, 2)
    taste = people.taste[:, goods.leaf]
    new = (now[:, None] - goods.created < 28 * DAY) & (goods.created > START)
    click = 1.2 + 0.7 * habits.leaf + 0.35 * habits.brand + 0.4 * habits.own + 0.15 * goods.appeal
    click += 0.25 * taste - 0.4 * dear**2 - 1.0 * state.basket + 0.5 * new
    buy = 0.8 + 0.5 * habits.leaf + 0.2 * habits.brand + 0.6 * habits.own
    buy += 0.25 * taste - 0.5 * dear**2 - 0.5 * dear - 1.0 * state.basket
    return 1 / (1 + np.exp(-click)), 1 / (1 + np.exp(-buy))


def policy(goods: Goods, habits: Habits) -> Array:
    """The shop's own score of every item [n, I]: what sells, and what the user bought before.

    It is not what people answer to. So position and relevance are confounded, in the way that misleads a
    model that does not know of positions: what the shop likes looks better than it is.
    """
    return 1.4 * goods.appeal + 1.2 * habits.own + 0.5 * habits.leaf


def basket(
    goods: Goods, people: People, state: State, decided: Array, now: Array, rng: np.random.Generator
) -> Array:
    """What is bought by taste alone [n, I] bool: softmax draws without replacement (Gumbel top-k)."""
    score = wanted(goods, people, state) + gumbel(rng, decided.shape)
    score[decided | (goods.created > now[:, None])] = -np.inf
    first = best(score, min(LARGEST, score.shape[1]))
    lines = np.minimum(1 + rng.poisson(people.lines - 1), LARGEST)
    bought = np.zeros(decided.shape, bool)
    np.put_along_axis(bought, first, np.arange(first.shape[1]) < lines[:, None], 1)
    return bought


def count(goods: Goods, state: State, who: Array, what: Array, spend: Array) -> None:
    """Lines of items `what`, bought by the users in rows `who` of the state, enter it: [m] each."""
    state.items[who, what] += 1
    np.add.at(state.leaves, (who, goods.leaf[what]), 1)
    np.add.at(state.brands, (who, goods.brand[what]), 1)
    np.add.at(state.lines, who, 1)
    np.add.at(state.spend, who, spend)


def slate(
    goods: Goods, habits: Habits, now: Array, rng: np.random.Generator, slots: int, exploration: float
) -> tuple[Array, Array]:
    """Items by position [n, slots] and the chance that each had of its slot, given those above it.

    Every slot is filled from what is left: with chance `exploration` evenly, else by softmax of the policy.
    """
    score = policy(goods, habits)
    score[goods.created > now[:, None]] = -np.inf
    weight = np.exp(score.astype(np.float64))
    there = np.searchsorted(goods.created, now, side="right")  # items are in order of arrival
    queue = best(score + gumbel(rng, score.shape), 2 * slots)
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


def gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """What, added to scores, makes the best of them a draw by softmax."""
    return -np.log(np.maximum(rng.standard_exponential(shape, np.float32), 1e-30))  # a draw can be 0


def best(score: Array, k: int) -> Array:
    """Columns of the k highest of every row, best first: [n, k]."""
    found = (
        np.argpartition(-score, k - 1, axis=1)[:, :k] if k < score.shape[1] else np.argsort(-score, axis=1)
    )
    return np.take_along_axis(found, np.argsort(-np.take_along_axis(score, found, 1), axis=1), 1)


def titles(goods: Goods) -> list[str]:
    """`Brand Adjective Noun`, `Fine` in front of the dearer line."""
    return [
        ("Fine " if leaf % len(LINES) else "")
        + f"{BRANDS[b]} {ADJECTIVES[a]} {NOUNS[leaf // len(LINES)].title()}"
        for leaf, b, a in zip(goods.leaf, goods.brand, goods.adjective, strict=True)
    ]


def examined(slots: int, position_bias: float) -> Array:
    """p(examined | position) [slots]: position ** -position_bias, so the first is always seen."""
    return np.arange(1, slots + 1) ** -float(position_bias)
