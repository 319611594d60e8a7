"""A shop with as many items as asked, as canonical tables: what serving is measured on.

    python -m benchmarks.large_shop 1_000_000 artifacts/large_shop       some 20 seconds

Items lie in 2,000 leaf categories and sell by Zipf's law within them. A user keeps to a dozen categories and
to favourites there, so that models find something to learn, and has 200 lines of history on average.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START_TS = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400
LEAVES, BRANDS, VOCABULARY_SIZE = 2_000, 5_000, 20_000
USERS, ORDERS_PER_USER, LINES_PER_ORDER, DAYS = 4_000, 25, 8, 180
CATEGORIES_PER_USER, FAVOURITES_PER_USER = 12, 40


def write_shop(items: int, folder: Path, seed: int = 0) -> Path:
    """`items.parquet` and `orders.parquet` in `folder`, which is returned; what is there already is kept."""
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
    parts: list[list[np.ndarray]] = [[], [], []]
    for number in range(USERS):
        tastes = rng.choice(LEAVES, CATEGORIES_PER_USER, replace=False)
        liked = np.concatenate(
            [_sample_items(rng, bounds, k, FAVOURITES_PER_USER // CATEGORIES_PER_USER + 1) for k in tastes]
        )
        count = rng.poisson(ORDERS_PER_USER * LINES_PER_ORDER) + 1
        known = rng.random(count) < 0.6
        drawn = np.where(
            known,
            rng.choice(liked, count),
            np.concatenate([_sample_items(rng, bounds, rng.choice(tastes), 1) for _ in range(count)]),
        )
        visits = np.sort(rng.integers(0, DAYS * DAY, max(count // LINES_PER_ORDER, 1)))
        at = START_TS + visits[np.sort(rng.integers(0, len(visits), count))]
        for part, values in zip(parts, (drawn, np.full(count, number), at), strict=True):
            part.append(values)
    item, user, ts = (np.concatenate(part) for part in parts)
    _, order = np.unique(np.stack([user, ts]), axis=1, return_inverse=True)
    lines = pa.table(
        {
            "order_id": [f"o{number}" for number in order.ravel().tolist()],
            "user_id": [f"u{number}" for number in user.tolist()],
            "item_id": [f"i{row}" for row in item.tolist()],
            "ts": ts,
            "quantity": np.ones(len(item)),
            "price": np.round(price[item], 2),
        }
    )
    first = pa.array(np.unique(np.stack([order.ravel(), item]), axis=1, return_index=True)[1])
    pq.write_table(lines.take(first).sort_by("ts"), folder / "orders.parquet", compression="zstd")
    return folder


def _sample_items(rng: np.random.Generator, bounds: np.ndarray, leaf: int, count: int) -> np.ndarray:
    """Item rows [count] of a leaf, by Zipf's law."""
    size = max(bounds[leaf + 1] - bounds[leaf], 1)
    return bounds[leaf] + np.minimum((size ** rng.random(count)).astype(np.int64) - 1, size - 1)


if __name__ == "__main__":
    print(write_shop(int(sys.argv[1]), Path(sys.argv[2])))
