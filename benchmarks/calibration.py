"""Measures predicted / observed in shops with different horizons, and after a drop in purchases.

    python -m benchmarks.calibration                                      some minutes for each shop
    python -m benchmarks.calibration --horizons 7d,60d --shops halved

The command generates shops. For each shop, `train.py` trains with the default config on the log until some
day. The run is measured on the test split, and on the checkouts after that day. Users join over time, buy
with the seasons and repeat favourite items. In the shop `halved`, half of the order lines are missing from
two weeks before the test split on. The table has predicted / observed by task. Predictions are calibrated on
validation alone, or also with the newest outcomes. For the test split, the newest outcomes are those before
the split. For the checkouts after the log, they are those at the end of the log.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.commands import ARTIFACTS, REPORTS, Row, run_benchmark, run_script
from data.examples.splits import horizon_days
from data.prepare import prepare
from evaluation.scoring import score_split
from evaluation.task_quality import task_metrics
from exporting.exportable_run import load_exportable_run
from reporting.tables import text_table
from serving.command_line import option
from serving.files import write_json
from training.catalog_refresh import refresh_run
from training.prepared_data import open_prepared
from training.trained_run import Run, open_run

START = pd.Timestamp("2024-01-01", tz="UTC")
CATEGORIES = ("food/dairy", "food/bakery", "food/fruit", "home/clean", "home/paper", "pets/dog", "pets/cat")
FAVOURITES = 10  # of a shopper
FAVOURITE_SHARE = 0.7  # of the order lines
N_ITEMS = 300
LOG_DAYS = 300  # of training, and two horizons
TEST_DAYS = 14
HALVED_BEFORE_DAYS = 14  # before the test split
NEXT_ORDER_DAYS = 14  # in which most users order again
SEASON = 0.1  # by which the rate of orders rises and falls over a year


def shop_tables(
    users: int, items: int, days: int, gap_days: float, seed: int, halved_from: float | None = None
) -> dict[str, pd.DataFrame]:
    """The tables `orders` and `items` of a shop whose users order every `gap_days` on average.

    A third of the users start on the first day; the others join at random times. From the day `halved_from`
    on, half of the order lines are missing.
    """
    rng = np.random.default_rng(seed)
    popularity = rng.dirichlet(np.full(items, 0.5))
    lines: list[tuple[str, str, int, float, int]] = []
    for user in range(users):
        favourites = rng.choice(items, FAVOURITES, replace=False, p=popularity)
        gap = gap_days * rng.gamma(3, 1 / 3) + 0.3
        day = max(0.0, rng.uniform(-days / 2, days)) + rng.exponential(gap)
        while day < days:
            size = 1 + rng.poisson(2)
            is_favourite = rng.random(size) < FAVOURITE_SHARE
            chosen = np.where(
                is_favourite, rng.choice(favourites, size), rng.choice(items, size, p=popularity)
            )
            for item in np.unique(chosen):
                lines.append((f"{user}-{day:.4f}", f"u{user:04d}", int(item), day, int(rng.integers(1, 3))))
            day += rng.exponential(gap) * (1 - SEASON * np.sin(2 * np.pi * day / 365)) + 0.05
    orders = pd.DataFrame(lines, columns=["order_id", "user_id", "item", "day", "quantity"])
    if halved_from is not None:
        orders = orders[(orders.day < halved_from) | (rng.random(len(orders)) < 0.5)]
    catalog = pd.DataFrame({
        "item_id": [f"i{k:04d}" for k in range(items)],
        "title": [f"{CATEGORIES[k % len(CATEGORIES)].split('/')[1]} no {k}" for k in range(items)],
        "category": [CATEGORIES[k % len(CATEGORIES)] for k in range(items)],
        "price": np.round(rng.uniform(2, 40, items), 2),
    })  # fmt: skip
    orders["item_id"] = catalog.item_id.to_numpy()[orders.pop("item")]
    orders["price"] = catalog.price.to_numpy()[orders.item_id.str[1:].astype(int)]
    orders["ts"] = (START + pd.to_timedelta(orders.pop("day"), unit="D")).dt.floor("s")
    return {"orders": orders, "items": catalog}


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Measure predicted / observed in shops with different horizons."""

    horizons: str = option("7d,14d,60d,next_order", "horizons of the shops, separated by commas")
    shops: str = option("steady,halved", "steady, halved or both")
    orders: int = option(12_000, "approximate number of orders in a shop")
    folder: Path = option(ARTIFACTS / "bench_calibration", "folder of the shops and their runs")
    overrides: str = option("", "further settings of train.py, separated by blanks")


def measure_shops(options: CalibrationOptions) -> int:
    """Train on each shop, print the table, and write it."""
    rows: list[Row] = []
    for horizon in options.horizons.split(","):
        for shop in options.shops.split(","):
            rows += measure_shop(horizon, shop, options)
            print(text_table(rows), flush=True)
            write_json(REPORTS / "bench_calibration.json", rows)
    return 0


def measure_shop(horizon: str, shop: str, options: CalibrationOptions) -> Iterator[Row]:
    """Measure one shop, on the test split and on the checkouts after the log."""
    outcome_days = horizon_days(horizon) or NEXT_ORDER_DAYS
    log_days = LOG_DAYS + 2 * outcome_days
    test_start, end = log_days - outcome_days - TEST_DAYS, log_days + outcome_days + TEST_DAYS
    gap_days = max(5.0, outcome_days / 4)
    folder = options.folder / f"{shop}-{horizon}"
    (folder / "shop").mkdir(parents=True, exist_ok=True)
    halved_from = test_start - HALVED_BEFORE_DAYS if shop == "halved" else None
    users = round(options.orders * gap_days / end * 4 / 3)
    for name, table in shop_tables(users, N_ITEMS, end, gap_days, 0, halved_from).items():
        table.to_parquet(folder / "shop" / f"{name}.parquet")
    run_script(
        "train.py", "data=tables", f"data.root={folder / 'shop'}", f"data.horizon={horizon}",
        f"data.until={_date(log_days)}", f"data.split.test_start={_date(test_start)}",
        f"paths.prepared={folder / 'prepared'}", f"paths.runs={folder / 'runs'}",
        f"mlflow.tracking_uri=sqlite:///{folder / 'mlflow.db'}", *options.overrides.split(),
    )  # fmt: skip
    run = open_run(folder / "runs" / "latest")
    newest = run.ranker.calibration.shift.detach().clone()
    shifts = {"validation": newest - level_shifts_of(run), "newest outcomes": newest}
    yield from _rows(run, {"horizon": horizon, "shop": shop, "checkouts": "test split"}, shifts)
    # The same weights on the log of the days that follow, with the calibration that serves in them.
    cfg = run.cfg.copy()
    cfg.data.until, cfg.data.split.test_start = None, _date(log_days)
    later = open_run(refresh_run(run.folder, cfg, open_prepared(prepare(cfg))))
    shifts["newest outcomes"] = load_exportable_run(run.folder).ranker.calibration.shift.detach()
    yield from _rows(later, {"horizon": horizon, "shop": shop, "checkouts": "after the log"}, shifts)


def level_shifts_of(run: Run) -> torch.Tensor:
    """The calibration shifts [T] of a run, from the newest outcomes before the test split."""
    levels = (run.manifest["recalibration"] or {"levels": {}})["levels"]
    return torch.tensor([levels[task.name]["shift"] if task.name in levels else 0.0 for task in run.tasks])


def _rows(run: Run, keys: Row, shifts: dict[str, torch.Tensor]) -> Iterator[Row]:
    """Yield rows of predicted / observed on a run's test split, by task and for each of `shifts`."""
    for name, shift in shifts.items():
        with torch.no_grad():
            run.ranker.calibration.shift.copy_(shift)
        for metrics in task_metrics(score_split(run, "test"), run.tasks):
            yield keys | {
                "task": metrics["task"],
                "calibration": name,
                "positives": metrics["positives"],
                "predicted_over_observed": round(metrics.get("predicted_over_observed", float("nan")), 3),
            }


def _date(day: float) -> str:
    return f"{START + pd.Timedelta(days=day):%Y-%m-%d}"


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.calibration", measure_shops))
