"""A shop with a given number of items, as canonical tables: the data of benchmarks/serving.py.

    python -m benchmarks.large_shop 1_000_000 artifacts/large_shop       about 20 seconds

Items are in 2,000 leaf categories and sell by Zipf's law within each category. A user buys from a dozen
categories and has favourite items there, so that models can learn preferences. A user has 200 lines of
history on average.
"""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.commands import run_benchmark
from models.schema import SECONDS_PER_DAY
from serving.command_line import argument

START_TS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
LEAVES, BRANDS, VOCABULARY_SIZE = 2_000, 5_000, 20_000
USERS, ORDERS_PER_USER, LINES_PER_ORDER, DAYS = 4_000, 25, 8, 180
CATEGORIES_PER_USER, FAVOURITES_PER_USER = 12, 40


@dataclass(frozen=True, kw_only=True)
class LargeShopOptions:
    """Write a shop with a given number of items, as canonical tables."""

    items: int = argument("number of items")
    folder: Path = argument("folder to write to")


def write_tables(options: LargeShopOptions) -> int:
    """Write the shop and print its folder."""
    print(write_shop(options.items, options.folder))
    return 0


def write_shop(items: int, folder: Path, seed: int = 0) -> Path:
    """Write `items.parquet` and `orders.parquet` into `folder` unless they exist; return the folder."""
    if (folder / "orders.parquet").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    leaf = np.sort(rng.integers(0, LEAVES, items))
    bounds = np.searchsorted(leaf, np.arange(LEAVES + 1))
    words = rng.integers(0, VOCABULARY_SIZE, (items, 3))
    price = np.exp(rng.normal(2.0, 1.0, LEAVES))[leaf] * np.exp(rng.normal(0, 0.3, items))
    titles = [f"w{a} w{b} w{c} kind{k}" for (a, b, c), k in zip(words.tolist(), leaf.tolist(), strict=True)]
    table = {
        "item_id": [f"i{row}" for row in range(items)],
        "title": titles,
        "category": [f"a{k // 100}/b{k // 10}/c{k}" for k in leaf.tolist()],
        "brand": [f"brand{b}" for b in (leaf * 7 + rng.integers(0, 40, items)) % BRANDS],
        "price": np.round(price, 2),
    }
    pq.write_table(pa.table(table), folder / "items.parquet", compression="zstd")
    lines = [_sample_lines(rng, bounds) for _ in range(USERS)]
    item = np.concatenate([user_lines.item for user_lines in lines])
    ts = np.concatenate([user_lines.ts for user_lines in lines])
    user = np.repeat(np.arange(USERS), [len(user_lines.item) for user_lines in lines])
    _, order = np.unique(np.stack([user, ts]), axis=1, return_inverse=True)
    orders = pa.table(
        {
            "order_id": [f"o{number}" for number in order.ravel().tolist()],
            "user_id": [f"u{number}" for number in user.tolist()],
            "item_id": [f"i{row}" for row in item.tolist()],
            "ts": ts,
            "quantity": np.ones(len(item)),
            "price": np.round(price[item], 2),
        }
    )
    # An item occurs once in an order.
    first_rows = pa.array(np.unique(np.stack([order.ravel(), item]), axis=1, return_index=True)[1])
    pq.write_table(orders.take(first_rows).sort_by("ts"), folder / "orders.parquet", compression="zstd")
    return folder


class UserLines(NamedTuple):
    """The order lines of one user."""

    item: NDArray  # [n] item rows
    ts: NDArray  # [n] Unix seconds


def _sample_lines(rng: np.random.Generator, bounds: NDArray) -> UserLines:
    """Draw the lines of a new user: three of five are favourites, the rest is from the user's categories."""
    categories = rng.choice(LEAVES, CATEGORIES_PER_USER, replace=False)
    per_category = FAVOURITES_PER_USER // CATEGORIES_PER_USER + 1
    favourites = np.concatenate([_sample_items(rng, bounds, leaf, per_category) for leaf in categories])
    count = rng.poisson(ORDERS_PER_USER * LINES_PER_ORDER) + 1
    item = np.where(
        rng.random(count) < 0.6,
        rng.choice(favourites, count),
        np.concatenate([_sample_items(rng, bounds, rng.choice(categories), 1) for _ in range(count)]),
    )
    visits = np.sort(rng.integers(0, DAYS * SECONDS_PER_DAY, max(count // LINES_PER_ORDER, 1)))
    ts = START_TS + visits[np.sort(rng.integers(0, len(visits), count))]
    return UserLines(item, ts)


def _sample_items(rng: np.random.Generator, bounds: NDArray, leaf: int, count: int) -> NDArray:
    """Draw item rows [count] of a leaf category by Zipf's law."""
    size = max(bounds[leaf + 1] - bounds[leaf], 1)
    return bounds[leaf] + np.minimum((size ** rng.random(count)).astype(np.int64) - 1, size - 1)


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.large_shop", write_tables))
