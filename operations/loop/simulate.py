"""Thirty days of the loop: serve, log, click, buy, label, retrain, gate, publish, swap.

    the crowd orders ─▶ Recommender (follows bundle/current) ─▶ ImpressionLog ─▶ the shop's tables
           ▲                         ▲                                                │
           ╰──── clicks, buys ◀──────┴── publish ◀── gates ◀── python retrain.py ◀────╯

Before the first day the shop's old rules fill the slates. One day's labels are shuffled on the way to
training, as a broken join would; the next day they are right again.
"""

import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from operations.loop.shop import TABLES, Shop, poisoned
from serving import Recommender, Slate, open_store
from serving.bundle_watcher import Swap
from serving.progress import Progress
from serving.stores.loading import load
from simulation.market import Array
from simulation.population import Crowd, Orders

ROOT = Path(__file__).resolve().parents[2]
LATELY = 28  # days of sales that make a bestseller
DEADLINE = 10_000.0  # ms: what a slate is worth must not depend on how busy the machine is
# The small models of the simulated shop; windows of days, not weeks, for they are what training does not see.
TRAINING = (
    "experiment=simulated", "data=tables", "data.horizon=next_order", "data.split.validation_share=0.06",
    "data.split.test_share=0.06", "retrain.full_every=7", "trainer.progress=false",
)  # fmt: skip
Row = dict[str, Any]


class Plan(NamedTuple):
    """How long the old rules run, how long the loop, and what happens."""

    before: int = 90  # days
    days: int = 30
    poison: int = 15  # day of the loop whose labels are shuffled
    explore: float = 0.2  # chance that the last slot of a slate explores


def run(cfg: Mapping[str, Any], plan: Plan, folder: Path, more: Sequence[str] = ()) -> list[Row]:
    """A row for every day of the loop; `more` are settings for retrain.py. Prints a line a day.

    `cfg` is a marketplace (configs/data/simulated.yaml); `folder` is made anew. Revenue is per session, the
    true expected spend on the six at their slots, so that luck plays no part in comparing; `bought` is
    what people really spent on what slates led to, on the day it became known.
    """
    if folder.exists() and not (folder / TABLES).is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than a loop, and would be deleted: name another one")
    shutil.rmtree(folder, ignore_errors=True)
    crowd = Crowd({**cfg, "days": plan.before + plan.days})
    shop = Shop(folder, crowd)
    sold: deque[Array] = deque(maxlen=LATELY)
    for day in range(plan.before):
        orders = crowd.orders(day)
        checkouts = shop.checkouts(day, orders)
        slates = [shop.usual(orders, k) for k in range(len(checkouts))]
        shop.end_day(day, orders, checkouts, slates, crowd.answer(day, orders, orders.usual))
        sold.append(_sales(orders))
    print(f"{plan.before} days by the old rules: {shop.orders:,} orders", flush=True)

    def serve(version: Path) -> Recommender:
        recommender = Recommender.load(version, shop.store)
        recommender.explore, recommender.rng = plan.explore, np.random.default_rng(0)
        return recommender

    decision = retrain(shop.tables, folder, more)
    if not decision.startswith("published"):
        raise RuntimeError(f"the first training was not published: {decision}")
    shop.store = open_store(folder / "store.db")
    load(shop.store, folder / "bundle" / "store.arrow", Progress())
    swap = Swap(folder / "bundle", serve)
    swap.look()
    rows = []
    for day in range(plan.days):
        started, now = time.perf_counter(), plan.before + day
        orders = crowd.orders(now)
        checkouts = shop.checkouts(now, orders)
        recommender = swap.recommender
        assert recommender is not None, swap.reason
        slates = [recommender.recommend(checkout, DEADLINE) for checkout in checkouts]
        item = _numbers(slates, crowd.slots)
        row = {"day": day + 1, "sessions": len(slates), "version": recommender.bundle.version}
        row |= _worth(crowd, orders, item, sold)
        row["tiers"] = {tier: sum(slate.tier == tier for slate in slates) for tier in ("ranked", "retrieval")}
        bought = shop.end_day(now, orders, checkouts, slates, crowd.answer(now, orders, item))
        row["bought"] = bought / len(slates)
        sold.append(_sales(orders))
        row["poisoned"] = day + 1 == plan.poison
        tables = poisoned(shop.tables, folder / "poisoned", now) if row["poisoned"] else shop.tables
        row["decision"] = retrain(tables, folder, more)
        swap.look()
        row["seconds"] = round(time.perf_counter() - started, 1)
        rows.append(row)
        print(line_of(row), flush=True)
    swap.close()
    shop.store.close()
    return rows


def retrain(tables: Path, folder: Path, more: Sequence[str]) -> str:
    """Run `retrain.py` on the shop's tables. Returns its last line: what was decided, and why.

    Raises RuntimeError with what it said if it fails.
    """
    done = subprocess.run(
        [sys.executable, "retrain.py", *TRAINING, f"data.root={tables}", f"bundle.dir={folder / 'bundle'}",
         f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}",
         f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}", *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"retrain.py failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def line_of(row: Row) -> str:
    """A day in a line."""
    return (
        f"day {row['day']:2d}: {row['sessions']} sessions, revenue {row['revenue']:.2f} "
        f"(popularity {row['popularity']:.2f}, old rules {row['rules']:.2f}, oracle {row['oracle']:.2f})"
        f"{', labels shuffled' * row['poisoned']}; {row['decision']} ({row['seconds']:.0f} s)"
    )


def _worth(crowd: Crowd, orders: Orders, item: Array, sold: Sequence[Array]) -> Row:
    """True expected spend per session of what was shown, and of what others would have shown then."""
    sales = np.sum(sold, axis=0)
    popular = np.where(orders.there & ~orders.basket, sales + 1e-6, -1.0)
    shown = {
        "revenue": item,
        "popularity": np.argsort(-popular, axis=1, kind="stable")[:, : crowd.slots],
        "rules": orders.usual,
        "oracle": crowd.oracle(orders),
    }
    return {name: float(crowd.worth(orders, slate).mean()) for name, slate in shown.items()}


def _sales(orders: Orders) -> Array:
    """[I] lines sold."""
    return np.bincount(orders.item, minlength=orders.there.shape[1]).astype(float)


def _numbers(slates: Sequence[Slate], slots: int) -> Array:
    """[n, slots] int64 item numbers, -1 for an empty slot."""
    item = np.full((len(slates), slots), -1)
    for k, slate in enumerate(slates):
        item[k, : len(slate.items)] = [int(one.item_id) for one in slate.items]
    return item


def summary(rows: Sequence[Row]) -> Row:
    """Revenue per session over all days, and its ratios."""
    weight = np.array([row["sessions"] for row in rows], float)
    mean = {
        name: float(np.average([row[name] for row in rows], weights=weight))
        for name in ("revenue", "popularity", "rules", "oracle")
    }
    return mean | {
        "of_popularity": mean["revenue"] / mean["popularity"],
        "of_oracle": mean["revenue"] / mean["oracle"],
        "published": sum(row["decision"].startswith("published") for row in rows),
    }
