"""The daily loop on the simulated market: serve, log, click, buy, label, retrain, gate, publish, reload.

    users order ─▶ Recommender (follows bundle/current) ─▶ ImpressionLog ─▶ the shop's tables
         ▲                        ▲                                              │
         ╰── clicks, purchases ◀──┴── publish ◀── gates ◀── python retrain.py ◀──╯

Before day 1 a rule policy fills the slates. On one day the labels are shuffled before training, as a broken
join would do. On the next day the labels are correct again.
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
SALES_WINDOW_DAYS = 28  # of the bestsellers
DEADLINE_MS = 10_000.0  # long, so that slates do not depend on the load of the machine
PUBLISHED = "published"  # how the line of retrain.py's decision begins
POLICIES = ("revenue", "popularity", "rule_policy", "oracle")  # columns of revenue; `revenue`: Sextet
# Small models; windows of days, not weeks, because training does not see them.
RETRAIN_OVERRIDES = (
    "experiment=simulated", "data=tables", "data.horizon=next_order", "data.split.validation_share=0.06",
    "data.split.test_share=0.06", "retrain.full_every=7", "trainer.progress=false",
)  # fmt: skip
Row = dict[str, Any]


class SimulationPlan(NamedTuple):
    """The days of a simulation."""

    rule_days: int = 90  # before day 1
    days: int = 30
    poisoned_day: int = 15  # the day whose labels are shuffled
    exploration_rate: float = 0.2  # probability that the last slot of a slate explores


def run_simulation(
    cfg: Mapping[str, Any], plan: SimulationPlan, folder: Path, overrides: Sequence[str] = ()
) -> list[Row]:
    """Run the loop and print a line per day. Returns a row per day. `overrides` are for retrain.py.

    `cfg` is a simulated market (configs/data/simulated.yaml). `folder` is emptied. Revenue is per session:
    the true expected spend on a slate's six items in their slots, without the noise of clicks.
    `attributed_spend` is the actual spend on items from slates, counted on the day on which the order
    arrives.
    """
    _empty_folder(folder)
    population = Population({**cfg, "days": plan.rule_days + plan.days})
    shop = SimulatedShop(folder, population)
    sales: deque[Array] = deque(maxlen=SALES_WINDOW_DAYS)
    for day in range(plan.rule_days):
        sales.append(_run_rule_day(shop, day))
    print(f"{plan.rule_days} days by the rule policy: {shop.n_orders:,} orders", flush=True)
    decision = retrain(shop.tables_folder, folder, overrides)
    if not decision.startswith(PUBLISHED):
        raise RuntimeError(f"the first training was not published: {decision}")
    shop.store = open_store(folder / "store.db")
    bulk_load(shop.store, folder / "bundle" / "store.arrow", ProgressReporter().update)

    def load(version: Path) -> Recommender:
        recommender = Recommender.load(version, shop.store)
        recommender.exploration_rate, recommender.rng = plan.exploration_rate, np.random.default_rng(0)
        return recommender

    watcher = BundleWatcher(folder / "bundle", load)
    watcher.poll()
    rows = []
    for day in range(1, plan.days + 1):
        start_time = time.perf_counter()
        assert watcher.recommender is not None, watcher.reason
        row: Row = {"day": day} | _run_loop_day(shop, watcher.recommender, plan.rule_days + day - 1, sales)
        row["labels_shuffled"] = day == plan.poisoned_day
        tables = shop.tables_folder
        if row["labels_shuffled"]:
            tables = copy_with_shuffled_labels(tables, folder / "poisoned", plan.rule_days + day - 1)
        row["decision"] = retrain(tables, folder, overrides)
        watcher.poll()
        row["seconds"] = round(time.perf_counter() - start_time, 1)
        rows.append(row)
        print(format_day(row), flush=True)
    watcher.close()
    shop.store.close()
    return rows


def _empty_folder(folder: Path) -> None:
    if folder.exists() and not (folder / TABLES_FOLDER).is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"{folder} holds files that the loop would delete but did not write: name another folder"
        )
    shutil.rmtree(folder, ignore_errors=True)


def _run_rule_day(shop: SimulatedShop, day: int) -> Array:
    """Simulate a day on which the rule policy fills the slates; return the lines sold [I]."""
    population = shop.population
    orders = population.simulate_orders(day)
    checkouts = shop.make_checkouts(day, orders)
    slates = [shop.make_rule_slate(orders, row) for row in range(len(checkouts))]
    clicked = population.simulate_feedback(day, orders, orders.rule_slate)
    shop.end_day(day, orders, checkouts, slates, clicked)
    return _lines_sold(orders)


def _run_loop_day(shop: SimulatedShop, recommender: Recommender, day: int, sales: deque[Array]) -> Row:
    """Simulate a day on which Sextet fills the slates, and append its sales to `sales`."""
    population = shop.population
    orders = population.simulate_orders(day)
    checkouts = shop.make_checkouts(day, orders)
    slates = [recommender.recommend(checkout, DEADLINE_MS) for checkout in checkouts]
    item = _slate_items(slates, population.n_slots)
    row = {"sessions": len(slates), "version": recommender.bundle.version}
    row |= _revenue_by_policy(population, orders, item, sales)
    row["tiers"] = {tier: sum(slate.tier == tier for slate in slates) for tier in ("ranked", "retrieval")}
    clicked = population.simulate_feedback(day, orders, item)
    row["attributed_spend"] = shop.end_day(day, orders, checkouts, slates, clicked) / len(slates)
    sales.append(_lines_sold(orders))
    return row


def retrain(tables: Path, folder: Path, overrides: Sequence[str]) -> str:
    """Run `retrain.py` on the shop's tables; return its last line, the decision with its reason.

    Raises RuntimeError with the end of the error output if `retrain.py` fails.
    """
    paths = [
        f"data.root={tables}", f"bundle.dir={folder / 'bundle'}", f"paths.prepared={folder / 'prepared'}",
        f"paths.runs={folder / 'runs'}", f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}",
    ]  # fmt: skip
    command = [sys.executable, "retrain.py", *RETRAIN_OVERRIDES, *paths, *overrides]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"retrain.py failed: {result.stderr.strip()[-2000:]}")
    return result.stdout.strip().splitlines()[-1]


def format_day(row: Row) -> str:
    """The line that is printed for a day."""
    return (
        f"day {row['day']:2d}: {row['sessions']} sessions, revenue {row['revenue']:.2f} "
        f"(popularity {row['popularity']:.2f}, rule policy {row['rule_policy']:.2f}, "
        f"oracle {row['oracle']:.2f}){', labels shuffled' * row['labels_shuffled']}; {row['decision']} "
        f"({row['seconds']:.0f} s)"
    )


def _revenue_by_policy(
    population: Population, orders: SimulatedOrders, item: Array, sales: Sequence[Array]
) -> Row:
    """Returns policy → true expected spend per session on its slates. Sextet's slates are `item`."""
    total_sales = np.sum(sales, axis=0)
    popularity = np.where(orders.available & ~orders.in_basket, total_sales + 1e-6, -1.0)
    slates = {
        "revenue": item,
        "popularity": np.argsort(-popularity, axis=1, kind="stable")[:, : population.n_slots],
        "rule_policy": orders.rule_slate,
        "oracle": population.oracle_slates(orders),
    }
    return {name: float(population.slate_value(orders, slate).mean()) for name, slate in slates.items()}


def _lines_sold(orders: SimulatedOrders) -> Array:
    """Returns the number of lines sold of each item [I]."""
    return np.bincount(orders.item, minlength=orders.available.shape[1]).astype(float)


def _slate_items(slates: Sequence[Slate], slots: int) -> Array:
    """Returns the item numbers of slates: [n, slots] int64, -1 for an empty slot."""
    item = np.full((len(slates), slots), -1)
    for row, slate in enumerate(slates):
        item[row, : len(slate.items)] = [int(slate_item.item_id) for slate_item in slate.items]
    return item


def summary(rows: Sequence[Row]) -> Row:
    """Returns each policy's revenue per session over all days, and ratios between policies."""
    sessions = np.array([row["sessions"] for row in rows], float)
    mean = {name: float(np.average([row[name] for row in rows], weights=sessions)) for name in POLICIES}
    return mean | {
        "ratio_to_popularity": mean["revenue"] / mean["popularity"],
        "ratio_to_oracle": mean["revenue"] / mean["oracle"],
        "n_published": sum(row["decision"].startswith(PUBLISHED) for row in rows),
    }
