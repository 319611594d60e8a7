"""The items of the simulated market."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
SECONDS_PER_DAY = 86_400
SIMULATION_START = 1_704_067_200  # 2024-01-01 UTC, the first day of the orders
NEW_ITEM_SHARE = 0.15  # of the items arrive after the first day
VECTOR_STREAM = 3  # of the random numbers of `item_vectors`; the others are the catalog's, users' and days'

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
LEAVES = [
    f"{department}/{noun}/{tier}"
    for department, nouns in DEPARTMENTS.items()
    for noun in nouns
    for tier in PRICE_TIERS
]
BRANDS = [prefix + suffix for prefix in ("Nor", "Al", "Bel", "Cor", "Mira", "Sol", "Tan", "Ver")
          for suffix in ("ello", "ora", "wick", "mond", "issa")]  # fmt: skip
ADJECTIVES = (
    "Amber", "Blue", "Classic", "Dark", "Earl", "Fresh", "Golden", "Hearty", "Ivory", "Jolly",
    "Light", "Mellow", "Natural", "Old", "Pure", "Quiet", "Rustic", "Soft", "True", "White",
)  # fmt: skip


class SimulatedItems(NamedTuple):
    """I items, ordered by arrival."""

    leaf: Array  # [I] int64, position in LEAVES
    brand: Array  # [I] int64, position in BRANDS
    adjective: Array  # [I] int64, position in ADJECTIVES
    price: Array  # [I] float32, list price
    margin: Array  # [I] float32, share of the price that the shop keeps
    appeal: Array  # [I] float32, the same for every user, standard normal
    created_at: Array  # [I] int64, Unix seconds


def sample_items(cfg: Mapping[str, Any]) -> SimulatedItems:
    """Draw the catalog of `cfg["items"]` items."""
    rng, n = np.random.default_rng([cfg["seed"], 0]), int(cfg["items"])
    leaf = rng.permutation(np.arange(n) % len(LEAVES))
    log_price = rng.normal(2.0, 0.5, len(NOUNS))[leaf // len(PRICE_TIERS)] + 0.6 * (leaf % len(PRICE_TIERS))
    is_new = np.arange(n) >= n - int(NEW_ITEM_SHARE * n)
    return SimulatedItems(
        leaf=leaf,
        brand=rng.integers(0, len(BRANDS), n),
        adjective=rng.integers(0, len(ADJECTIVES), n),
        price=np.round(np.exp(log_price + rng.normal(0, 0.25, n)) + 0.01, 2).astype(np.float32),
        margin=np.round(rng.uniform(0.1, 0.5, n), 3).astype(np.float32),
        appeal=rng.standard_normal(n, np.float32),
        created_at=SIMULATION_START
        + np.sort(np.where(is_new, rng.uniform(0, cfg["days"], n) * SECONDS_PER_DAY, 0)).astype(np.int64),
    )


def item_titles(items: SimulatedItems) -> list[str]:
    """Return titles of the form `Brand Adjective Noun`; those of the fine price tier begin with `Fine`."""
    return [
        ("Fine " if leaf % len(PRICE_TIERS) else "")
        + f"{BRANDS[brand]} {ADJECTIVES[adjective]} {NOUNS[leaf // len(PRICE_TIERS)].title()}"
        for leaf, brand, adjective in zip(items.leaf, items.brand, items.adjective, strict=True)
    ]


def item_vectors(items: SimulatedItems, cfg: Mapping[str, Any]) -> Array:
    """Draw an embedding of each item, as a model of images or texts would give: [I, dim] float32.

    An embedding is a sum of four random directions. Three belong to the department, the noun and the price
    tier of the item. The fourth is multiplied by the item's hidden appeal. Gaussian noise is added.
    `cfg["vector"]` has `dim` and `noise`. `noise` is the length of the noise relative to the length of a
    direction.
    """
    dim, noise = int(cfg["vector"]["dim"]), float(cfg["vector"]["noise"])
    rng = np.random.default_rng([cfg["seed"], VECTOR_STREAM])
    n_nouns, n_tiers = len(NOUNS), len(PRICE_TIERS)
    department, noun, tier, appeal = (
        rng.normal(0, dim**-0.5, (n, dim)) for n in (len(DEPARTMENTS), n_nouns, n_tiers, 1)
    )
    noun_of = items.leaf // n_tiers
    vectors = department[noun_of // (n_nouns // len(DEPARTMENTS))] + noun[noun_of]
    vectors = vectors + tier[items.leaf % n_tiers] + appeal * items.appeal[:, None]
    return (vectors + rng.normal(0, noise * dim**-0.5, vectors.shape)).astype(np.float32)
