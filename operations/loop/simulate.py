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

from operations.loop.shop import TABLES_FOLDER, SimulatedShop, copy_with_shuffled_labels
from serving import Recommender, Slate, open_store
from serving.bundle_watcher import BundleWatcher
from serving.progress import ProgressReporter
from serving.stores.loading import bulk_load
from simulation.catalog import Array
from simulation.population import Population, SimulatedOrders

ROOT = Path(__file__).resolve().parents[2]
SALES_WINDOW_DAYS = 28  # days of sales that make a bestseller
DEADLINE_MS = 10_000.0  # ms: what a slate is worth must not depend on how busy the machine is
# The small models of the simulated shop; windows of days, not weeks, for they are what training does not see.
RETRAIN_OVERRIDES = (
    "experiment=simulated", "data=tables", "data.horizon=next_order", "data.split.validation_share=0.06",
    "data.split.test_share=0.06", "retrain.full_every=7", "trainer.progress=false",
)  # fmt: skip
Row = dict[str, Any]


class SimulationPlan(NamedTuple):
    """How long the old rules run, how long the loop, and what happens."""

    rule_days: int = 90  # days
    days: int = 30
    poisoned_day: int = 15  # day of the loop whose labels are shuffled
    explore: float = 0.2  # chance that the last slot of a slate explores


def run_simulation(
    cfg: Mapping[str, Any], plan: SimulationPlan, folder: Path, overrides: Sequence[str] = ()
) -> list[Row]:
    """A row for every day of the loop; `more` are settings for retrain.py. Prints a line a day.

    `cfg` is a marketplace (configs/data/simulated.yaml); `folder` is made anew. Revenue is per session, the
    true expected spend on the six at their slots, so that luck plays no part in comparing; `bought` is
    what people really spent on what slates led to, on the day it became known.
    """
    if folder.exists() and not (folder / TABLES_FOLDER).is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than a loop, and would be deleted: name another one")
    shutil.rmtree(folder, ignore_errors=True)
    crowd = Population({**cfg, "days": plan.rule_days + plan.days})
    shop = SimulatedShop(folder, crowd)
    sold: deque[Array] = deque(maxlen=SALES_WINDOW_DAYS)
    for day in range(plan.rule_days):
        orders = crowd.simulate_orders(day)
        checkouts = shop.make_checkouts(day, orders)
        slates = [shop.make_rule_slate(orders, k) for k in range(len(checkouts))]
        shop.end_day(day, orders, checkouts, slates, crowd.simulate_feedback(day, orders, orders.rule_slate))
        sold.append(_sales(orders))
    print(f"{plan.rule_days} days by the old rules: {shop.n_orders:,} orders", flush=True)

    def serve(version: Path) -> Recommender:
        recommender = Recommender.load(version, shop.store)
        recommender.exploration_rate, recommender.rng = plan.explore, np.random.default_rng(0)
        return recommender

    decision = retrain(shop.tables_folder, folder, overrides)
    if not decision.startswith("published"):
        raise RuntimeError(f"the first training was not published: {decision}")
    shop.store = open_store(folder / "store.db")
    bulk_load(shop.store, folder / "bundle" / "store.arrow", ProgressReporter().update)
    swap = BundleWatcher(folder / "bundle", serve)
    swap.poll()
    rows = []
    for day in range(plan.days):
        started, now = time.perf_counter(), plan.rule_days + day
        orders = crowd.simulate_orders(now)
        checkouts = shop.make_checkouts(now, orders)
        recommender = swap.recommender
        assert recommender is not None, swap.reason
        slates = [recommender.recommend(checkout, DEADLINE_MS) for checkout in checkouts]
        item = _slate_items(slates, crowd.n_slots)
        row = {"day": day + 1, "sessions": len(slates), "version": recommender.bundle.version}
        row |= _revenue_by_policy(crowd, orders, item, sold)
        row["tiers"] = {tier: sum(slate.tier == tier for slate in slates) for tier in ("ranked", "retrieval")}
        bought = shop.end_day(now, orders, checkouts, slates, crowd.simulate_feedback(now, orders, item))
        row["bought"] = bought / len(slates)
        sold.append(_sales(orders))
        row["poisoned"] = day + 1 == plan.poisoned_day
        tables = (
            copy_with_shuffled_labels(shop.tables_folder, folder / "poisoned", now)
            if row["poisoned"]
            else shop.tables_folder
        )
        row["decision"] = retrain(tables, folder, overrides)
        swap.poll()
        row["seconds"] = round(time.perf_counter() - started, 1)
        rows.append(row)
        print(format_day(row), flush=True)
    swap.close()
    shop.store.close()
    return rows


def retrain(tables: Path, folder: Path, more: Sequence[str]) -> str:
    """Run `retrain.py` on the shop's tables. Returns its last line: what was decided, and why.

    Raises RuntimeError with what it said if it fails.
    """
    done = subprocess.run(
        [sys.executable, "retrain.py", *RETRAIN_OVERRIDES, f"data.root={tables}", f"bundle.dir={folder / 'bundle'}", f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}",
         f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}", *more],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"retrain.py failed: {done.stderr.strip()[-2000:]}")
    return done.stdout.strip().splitlines()[-1]


def format_day(row: Row) -> str:
    """A day in a line."""
    return (
        f"day {row['day']:2d}: {row['sessions']} sessions, revenue {row['revenue']:.2f} "
        f"(popularity {row['popularity']:.2f}, old rules {row['rules']:.2f}, oracle {row['oracle']:.2f})"
        f"{', labels shuffled' * row['poisoned']}; {row['decision']} ({row['seconds']:.0f} s)"
    )


def _revenue_by_policy(crowd: Population, orders: SimulatedOrders, item: Array, sold: Sequence[Array]) -> Row:
    """True expected spend per session of what was shown, and of what others would have shown then."""
    sales = np.sum(sold, axis=0)
    popular = np.where(orders.available & ~orders.in_basket, sales + 1e-6, -1.0)
    shown = {
        "revenue": item,
        "popularity": np.argsort(-popular, axis=1, kind="stable")[:, : crowd.n_slots],
        "rules": orders.rule_slate,
        "oracle": crowd.oracle_slates(orders),
    }
    return {name: float(crowd.slate_value(orders, slate).mean()) for name, slate in shown.items()}


def _sales(orders: SimulatedOrders) -> Array:
    """[I] lines sold."""
    return np.bincount(orders.item, minlength=orders.available.shape[1]).astype(float)


def _slate_items(slates: Sequence[Slate], slots: int) -> Array:
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
