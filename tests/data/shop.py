"""A small synthetic shop, drawn from a seed: users with favourite items that they buy again and again.

Every user prefers two of the categories and has six favourite items of them. An order has favourites, at
times a new item of the preferred categories, and rarely any other item. So a model that learns repeat
purchases and categories beats popularity.
"""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv_reader
import pyarrow.parquet as pq

START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400
CATEGORIES = (
    "food/dairy/milk", "food/dairy/cheese", "food/bakery/bread", "food/fruit/apple",
    "home/clean/soap", "home/paper/towel", "pets/dog/treat", "pets/cat/litter",
)  # fmt: skip


def write_shop(
    folder: Path,
    users: int = 60,
    items: int = 80,
    days: int = 90,
    events: bool = False,
    seed: int = 0,
) -> Path:
    """Write `orders.csv, items.csv, users.csv` and, with `events`, `events.csv`; returns the folder."""
    for name, rows in make_shop(users, items, days, events, seed).items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


def add_item_features(folder: Path, dim: int = 4) -> None:
    """Write `items.parquet` in place of `items.csv`, with the columns `color`, `weight` and `embedding`.

    The embedding is near that of the item's category; one item in ten has none.
    """
    items = csv_reader.read_csv(folder / "items.csv")
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(len(CATEGORIES), dim))
    vectors = [
        (centers[k % len(CATEGORIES)] + 0.1 * rng.normal(size=dim)).tolist() for k in range(len(items))
    ]
    columns = {
        "color": pa.array(
            [None if k % 9 == 8 else ("red", "blue", "green")[k % 3] for k in range(len(items))]
        ),
        "weight": pa.array(rng.uniform(0.1, 5.0, len(items))),
        "embedding": pa.array(
            [None if k % 10 == 9 else v for k, v in enumerate(vectors)], pa.list_(pa.float32())
        ),
    }
    for name, values in columns.items():
        items = items.append_column(name, values)
    pq.write_table(items, folder / "items.parquet")
    (folder / "items.csv").unlink()


def add_returns_and_carts(folder: Path, seed: int = 1) -> None:
    """Take one order line in seven back after two days, and put 60 % of the clicked items into the cart."""
    rng = np.random.default_rng(seed)
    tables = {name: csv_reader.read_csv(folder / f"{name}.csv").to_pylist() for name in ("orders", "events")}
    returned = [
        {**line, "order_id": f"{line['order_id']}r", "ts": line["ts"] + timedelta(days=2)}
        | {"quantity": -line["quantity"]}
        for line in tables["orders"]
        if rng.random() < 1 / 7
    ]
    carts = [
        {**event, "kind": "cart"}
        for event in tables["events"]
        if event["kind"] == "click" and rng.random() < 0.6
    ]
    for name, rows in (("orders", returned), ("events", carts)):
        write_csv(
            folder / f"{name}.csv",
            [{**row, "ts": f"{row['ts']:%Y-%m-%dT%H:%M:%SZ}"} for row in tables[name] + rows],
        )


def make_shop(
    users: int = 60, items: int = 80, days: int = 90, events: bool = False, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """The rows of the canonical tables, times as ISO 8601 text."""
    rng = np.random.default_rng(seed)
    catalog = [
        {
            "item_id": f"i{k:03d}",
            "title": f"{CATEGORIES[k % len(CATEGORIES)].split('/')[-1].title()} No {k}",
            "category": CATEGORIES[k % len(CATEGORIES)],
            "brand": f"brand{k % 7}",
            "price": round(1.5 + (k * 7 % 23) * 0.8, 2),
        }
        for k in range(items)
    ]
    tables: dict[str, list[dict[str, Any]]] = {"items": catalog, "orders": [], "users": []}
    if events:
        tables["events"] = []
    number = 0
    for u in range(users):
        tables["users"].append({"user_id": f"u{u:03d}", "city": f"city{u % 4}", "age": 18 + u * 13 % 60})
        categories = rng.choice(len(CATEGORIES), 2, replace=False)
        preferred = [k for k in range(items) if k % len(CATEGORIES) in categories]
        favourites = rng.choice(preferred, min(6, len(preferred)), replace=False)
        ts = START + int(rng.integers(0, 8 * DAY))
        while ts < START + days * DAY:
            number += 1
            chosen = set(rng.choice(favourites, 3, replace=False).tolist())
            chosen.add(int(rng.choice(preferred) if rng.random() < 0.8 else rng.integers(items)))
            tables["orders"] += _order(rng, f"o{number:05d}", u, ts, sorted(chosen), catalog)
            if events:
                tables["events"] += _events(rng, f"o{number:05d}", u, ts, favourites, items)
            ts += int(rng.uniform(3, 9) * DAY)
    return tables


def _order(
    rng: np.random.Generator, order: str, u: int, ts: int, chosen: list[int], catalog: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {
            "order_id": order,
            "user_id": f"u{u:03d}",
            "item_id": catalog[k]["item_id"],
            "ts": iso(ts),
            "quantity": int(rng.integers(1, 4)),
            "price": round(catalog[k]["price"] * (0.9 if rng.random() < 0.2 else 1.0), 2),
            "device": ("phone", "desktop")[u % 2],
        }
        for k in chosen
    ]


def _events(
    rng: np.random.Generator, order: str, u: int, ts: int, favourites: np.ndarray, items: int
) -> list[dict[str, Any]]:
    """Six impressions after the checkout; favourites are clicked more often."""
    rows = []
    slate = rng.choice(favourites, 3, replace=False).tolist()
    slate += [k for k in rng.permutation(items).tolist() if k not in slate][:3]
    for position, k in enumerate(slate):
        row = {"user_id": f"u{u:03d}", "item_id": f"i{k:03d}", "order_id": order, "position": position}
        rows.append({**row, "ts": iso(ts + 5), "kind": "impression"})
        if rng.random() < (0.5 if k in favourites else 0.05):
            rows.append({**row, "ts": iso(ts + 60 + position), "kind": "click"})
    return rows


def iso(ts: int) -> str:
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the columns of all rows, in order of appearance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(c for row in rows for c in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
