"""Measures error rates of the monitor: alarms on quiet days, and planted shifts that it misses.

    python -m benchmarks.monitoring            100 quiet days and 14 shifts: about 10 minutes on 2 cores
    python -m benchmarks.monitoring 400        more quiet days

Trains on a shop of 5,000 items for a minute, and exports a bundle (kept in artifacts/bench_monitoring). Then
it simulates 1,000 live orders a day (benchmarks/simulated_live_log.py). Every quiet day is compared with the
28 days before it. A shift begins on one day and stays. The test is on the first day on which the outcomes of
the shift are complete. Writes `reports/bench_monitoring.json`.
"""

import shutil
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from benchmarks import large_shop
from benchmarks.commands import ARTIFACTS, REPORTS, Row, run_benchmark
from benchmarks.short_training import train_and_export
from benchmarks.simulated_live_log import DayConfig, LiveShop, LogDays, write_log
from data.tables.reader import open_file
from models.schema import SECONDS_PER_DAY
from operations.monitoring import daily, logged_slates, past_checkouts
from reporting.tables import text_table
from serving import Recommender, Store, open_store
from serving.command_line import argument
from serving.files import write_json
from serving.storage.vector_index import SearchParams
from serving.stores import loading

FOLDER = ARTIFACTS / "bench_monitoring"
REPORT = REPORTS / "bench_monitoring.json"
ITEMS, ORDERS_PER_DAY, QUIET_DAYS, REFERENCE_DAYS, HORIZON_DAYS = 5_000, 1_000, 100, 28, 14
# Days before the first tested day: recent orders need the last 28.
WARM_UP_DAYS = REFERENCE_DAYS + HORIZON_DAYS + 28


class Shift(NamedTuple):
    """A shift that is planted in the simulated log."""

    expected_alarms: str  # metrics, separated by commas, of which one must raise an alarm
    config: DayConfig = DayConfig()
    outcome_delay_days: int = 0  # until its outcomes are complete
    store_lag_days: int | None = None  # by which a store is behind; None without a store
    nprobe: int | None = None  # of the index


SHIFTS = {
    "prices 10 % up": Shift("price ratio to catalog", DayConfig(price_factor=1.1)),
    "baskets of a line more": Shift("basket size", DayConfig(extra_lines=3.0)),
    "another mix of categories": Shift("category of basket", DayConfig(single_category_share=0.12)),
    "desktop users move to phones": Shift("device", DayConfig(phone_share=0.4)),
    "three times as many new users": Shift("new users", DayConfig(new_user_share=0.18)),
    "4 % of the items unknown": Shift("unknown items in baskets", DayConfig(unknown_item_share=0.04)),
    "3 % of the words unknown": Shift("unknown context values", DayConfig(unknown_value_share=0.03)),
    "scores shifted": Shift("p(click)", DayConfig(click_logit_shift=0.5)),
    "calibration off by 20 %": Shift(
        "click calibration ratio", DayConfig(prediction_factor=1.25), outcome_delay_days=1
    ),
    "click rate 20 % down": Shift(
        "click rate, click calibration ratio", DayConfig(click_factor=0.8), outcome_delay_days=1
    ),
    "fallbacks up to 3 %": Shift("fallback tiers", DayConfig(fallback_share=0.03)),
    "slates of one category": Shift("categories in a slate", DayConfig(single_category_slate_share=0.3)),
    "store two days behind": Shift("buyers missing from the store", store_lag_days=2),
    "index searches one list": Shift("index recall", nprobe=1),
}


@dataclass(frozen=True, kw_only=True)
class MonitoringOptions:
    """Measure error rates of the monitor: alarms on quiet days, and planted shifts that must be detected."""

    quiet_days: int = argument("number of quiet days", default=QUIET_DAYS)


def benchmark(options: MonitoringOptions) -> int:
    """Measure both error rates; write and print the rows."""
    root = build_bundle()
    rows = [measure_false_alarms(root, options.quiet_days), *measure_detection(root)]
    write_json(REPORT, rows)
    print(text_table([{name: str(value) for name, value in row.items()} for row in rows]))
    print(f"written: {REPORT}")
    return 0


def build_bundle() -> Path:
    """Build a bundle over a shop whose orders have a device, unless it exists; return the bundle's root."""
    if (FOLDER / "bundle" / "current").exists():
        return FOLDER / "bundle"
    shop = large_shop.write_shop(ITEMS, FOLDER / "shop")
    orders = pq.read_table(shop / "orders.parquet")
    if "device" not in orders.column_names:
        devices = np.array(["phone", "desktop", "tablet"])
        user_numbers = np.array([int(user[1:]) for user in orders["user_id"].to_pylist()])
        device = pa.array(devices[user_numbers % 3])
        pq.write_table(orders.append_column("device", device), shop / "orders.parquet")
    return train_and_export(shop, FOLDER)


def measure_false_alarms(
    root: Path, quiet_days: int, orders_per_day: int = ORDERS_PER_DAY, seed: int = 0
) -> Row:
    """Return the row of the quiet days: the number of days with an alarm, and the metrics that raised one."""
    recommender, first_day = load_recommender(root)
    n_days = WARM_UP_DAYS + quiet_days
    days = LogDays(first_day, n_days, n_days)
    folder = write_live_log(LiveShop(recommender.bundle, orders_per_day, seed), days, DayConfig())
    log = read_live_log(recommender, folder, first_day + n_days)
    config = daily.DailyReportConfig(REFERENCE_DAYS)
    alarm_days, names = 0, Counter[str]()
    for day in tqdm(range(first_day + WARM_UP_DAYS, first_day + n_days), desc="quiet days"):
        report = daily.daily_report(log.slates, log.orders, recommender, log.windows, day, config=config)
        alarm_days += bool(report.alarms)
        names.update({alarm.name for alarm in report.alarms})
    return {
        "scenario": f"{quiet_days} quiet days",
        "alarm_days": alarm_days,
        "tests_per_day": len(report.statistics),
        "alarms": ", ".join(names),
    }


def measure_detection(root: Path, orders_per_day: int = ORDERS_PER_DAY, seed: int = 1) -> list[Row]:
    """Return a row per planted shift: whether it was detected, and all metrics that raised an alarm."""
    return [
        {"scenario": name, **detect_shift(root, shift, orders_per_day, seed)}
        for name, shift in tqdm(SHIFTS.items(), desc="shifts")
    ]


def detect_shift(root: Path, shift: Shift, orders_per_day: int = ORDERS_PER_DAY, seed: int = 1) -> Row:
    """Plant a shift, and return the alarms of the first day on which it can be detected."""
    recommender, first_day = load_recommender(root)
    n_days = WARM_UP_DAYS + shift.outcome_delay_days + 1
    day = first_day + n_days - 1
    days = LogDays(first_day, n_days, WARM_UP_DAYS)
    folder = write_live_log(LiveShop(recommender.bundle, orders_per_day, seed), days, shift.config)
    log = read_live_log(recommender, folder, day + 1)
    if shift.nprobe is not None:
        index = recommender.bundle.index.with_search_params(SearchParams(shift.nprobe))
        recommender = Recommender(replace(recommender.bundle, index=index))
    store = None
    if shift.store_lag_days is not None:
        store = load_store(folder, day + 1 - shift.store_lag_days)
    config = daily.DailyReportConfig(REFERENCE_DAYS, max_bundle_age_days=1e9)
    report = daily.daily_report(log.slates, log.orders, recommender, log.windows, day, store, config)
    names = dict.fromkeys(alarm.name for alarm in report.alarms)
    names |= dict.fromkeys(check.name for check in report.threshold_checks if check.alarm)
    hits = [name for name in names if name in shift.expected_alarms.split(", ")]
    p = min((alarm.p for alarm in report.alarms if alarm.name in hits), default=None)
    return {
        "expected": shift.expected_alarms,
        "detected": bool(hits),
        "p": "" if p is None else f"{p:.1e}",
        "alarms": ", ".join(names),
    }


def load_recommender(root: Path) -> tuple[Recommender, int]:
    """Load the recommender; return it and the first day after the data of its bundle."""
    recommender = Recommender.load(root)
    end = int(recommender.bundle.manifest["data"]["window"]["end"])
    return recommender, end // SECONDS_PER_DAY + 1


def load_store(folder: Path, end_day: int) -> Store:
    """A store of the live log's orders before a day."""
    orders = pq.read_table(folder / "orders.parquet")
    (folder / "stored").mkdir()
    is_stored = pc.field("ts") < end_day * SECONDS_PER_DAY
    pq.write_table(orders.filter(is_stored), folder / "stored" / "orders.parquet")
    store = open_store(folder / "store.db")
    loading.bulk_load(store, folder / "stored", lambda done, total: None)
    return store


def write_live_log(shop: LiveShop, days: LogDays, config: DayConfig) -> Path:
    """Write the log and the orders of a live shop, replacing earlier files; return their folder."""
    folder = FOLDER / "live"
    shutil.rmtree(folder, ignore_errors=True)
    return write_log(shop, folder, days, config)


class LiveLog(NamedTuple):
    """The inputs of a daily report."""

    slates: logged_slates.AttributedLog
    orders: past_checkouts.OrderHistory
    windows: logged_slates.AttributionWindows


def read_live_log(recommender: Recommender, folder: Path, end_day: int) -> LiveLog:
    """The log and the orders before a day, with the windows of the bundle's labels."""
    end = end_day * SECONDS_PER_DAY
    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    with logged_slates.open_duckdb() as con:
        orders = logged_slates.read_orders(con, open_file(folder / "orders.parquet"), end)
        slates = logged_slates.read_attributed_log(con, folder / "events", orders, windows, 0, end)
        return LiveLog(slates, past_checkouts.read_order_history(con, orders), windows)


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.monitoring", benchmark))
