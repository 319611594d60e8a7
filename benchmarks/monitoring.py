"""How often the monitor is wrong: alarms on quiet days, and planted shifts that it must find.

    python -m benchmarks.monitoring            100 quiet days and 14 shifts: some 10 minutes on 2 cores
    python -m benchmarks.monitoring 400        more quiet days

A shop of 5,000 items is trained on for a minute and exported (kept in artifacts/bench_monitoring); a live
shop of 1,000 orders a day is simulated for it (benchmarks/simulated_live_log.py). Every quiet day is judged
against the 28 before it, and each shift, which begins on one day and stays, as of the first day on which it
can be seen. Writes `reports/bench_monitoring.json`.
"""

import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import large_shop, serving, simulated_live_log
from benchmarks.simulated_live_log import DayConfig

FOLDER = serving.ROOT / "artifacts" / "bench_monitoring"
REPORT = serving.ROOT / "reports" / "bench_monitoring.json"
ITEMS, ORDERS_PER_DAY, QUIET_DAYS, REFERENCE_DAYS, HORIZON_DAYS = 5_000, 1_000, 100, 28, 14
WARM_UP_DAYS = (
    REFERENCE_DAYS + HORIZON_DAYS + 28
)  # days before the first that is judged: recent orders need the last 28


class Shift(NamedTuple):
    """A planted shift."""

    expected_alarms: str  # the figure that must raise an alarm, or one of several
    config: DayConfig = DayConfig()
    outcome_delay_days: int = 0  # days until its outcomes are in
    store_lag_days: int | None = None  # days, where a store is looked at
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


def main(quiet: int) -> None:
    from reporting import tables  # after console.set_up: they load torch
    from serving.files import write_json

    root = build_bundle()
    rows = [measure_false_alarms(root, quiet), *measure_detection(root)]
    write_json(REPORT, rows)
    print(tables.text_table([{name: str(value) for name, value in row.items()} for row in rows]))
    print(f"written: {REPORT}")


def build_bundle() -> Path:
    """The root of a bundle over a shop whose orders have a device."""
    bundle = FOLDER / "bundle"
    if not (bundle / "current").exists():
        shop = large_shop.write_shop(ITEMS, FOLDER / "shop")
        orders = pq.read_table(shop / "orders.parquet")
        if "device" not in orders.column_names:
            device = np.array(["phone", "desktop", "tablet"])[
                np.array([int(user[1:]) % 3 for user in orders["user_id"].to_pylist()])
            ]
            pq.write_table(orders.append_column("device", pa.array(device)), shop / "orders.parquet")
        runs = [f"paths.prepared={FOLDER / 'prepared'}", f"paths.runs={FOLDER / 'runs'}"]
        tracking = f"mlflow.tracking_uri=sqlite:///{FOLDER / 'mlflow.db'}"
        serving.run_script(
            "train.py", "data=tables", f"data.root={shop}", *runs, tracking, *serving.SHORT_TRAINING
        )
        serving.run_script("export.py", f"run={FOLDER / 'runs' / 'latest'}", f"bundle.dir={bundle}", tracking)
    return bundle


def measure_false_alarms(
    root: Path, quiet: int, orders_per_day: int = ORDERS_PER_DAY, seed: int = 0
) -> dict[str, Any]:
    """How many of so many days raised an alarm, on which nothing had changed; and by which figures."""
    from tqdm import tqdm

    from operations.monitoring import daily

    recommender, first = load_recommender(root)
    days = WARM_UP_DAYS + quiet
    folder = write_live_log(recommender, first, days, days, DayConfig(), orders_per_day, seed)
    seen, orders, windows = read_log_and_orders(recommender, folder, first + days)
    raised, by = 0, Counter[str]()
    for day in tqdm(range(first + WARM_UP_DAYS, first + days), desc="quiet days"):
        config = daily.DailyReportConfig(REFERENCE_DAYS)
        report = daily.daily_report(seen, orders, recommender, windows, day, config=config)
        raised += bool(report.alarms)
        by.update({one.name for one in report.alarms})
    return {
        "what": f"{quiet} quiet days", "days with an alarm": raised, "statistics a day":
        len(report.statistics), "alarms": ", ".join(by),
    }  # fmt: skip


def measure_detection(
    root: Path, orders_per_day: int = ORDERS_PER_DAY, seed: int = 1
) -> list[dict[str, Any]]:
    """A row for each planted shift: whether it was found, and all that raised an alarm."""
    from tqdm import tqdm

    return [
        {"what": name, **detect_shift(root, shift, orders_per_day, seed)}
        for name, shift in tqdm(SHIFTS.items(), desc="shifts")
    ]


def detect_shift(
    root: Path, shift: Shift, orders_per_day: int = ORDERS_PER_DAY, seed: int = 1
) -> dict[str, Any]:
    """What the monitor says of a shift."""
    from operations.monitoring import daily
    from serving import Recommender, open_store
    from serving.storage.vector_index import SearchParams
    from serving.stores import loading

    recommender, first = load_recommender(root)
    day = first + WARM_UP_DAYS + shift.outcome_delay_days
    folder = write_live_log(
        recommender,
        first,
        WARM_UP_DAYS + shift.outcome_delay_days + 1,
        WARM_UP_DAYS,
        shift.config,
        orders_per_day,
        seed,
    )
    seen, orders, windows = read_log_and_orders(recommender, folder, day + 1)
    if shift.nprobe is not None:
        worse = recommender.bundle.index.at(SearchParams(shift.nprobe))
        recommender = Recommender(replace(recommender.bundle, index=worse))
    store = None
    if shift.store_lag_days is not None:
        known = pq.read_table(folder / "orders.parquet")
        until = (day + 1 - shift.store_lag_days) * simulated_live_log.DAY
        (folder / "known").mkdir()
        pq.write_table(known.filter(pa.compute.field("ts") < until), folder / "known" / "orders.parquet")
        store = open_store(folder / "store.db")
        loading.bulk_load(store, folder / "known", lambda done, of: None)
    config = daily.DailyReportConfig(REFERENCE_DAYS, max_bundle_age_days=1e9)
    report = daily.daily_report(seen, orders, recommender, windows, day, store, config)
    names = dict.fromkeys(one.name for one in report.alarms)
    names |= dict.fromkeys(one.name for one in report.threshold_checks if one.alarm)
    hits = [name for name in names if name in shift.expected_alarms.split(", ")]
    p = min((one.p for one in report.alarms if one.name in hits), default=None)
    return {
        "expected": shift.expected_alarms, "found": bool(hits), "p": "" if p is None else f"{p:.1e}",
        "alarms": ", ".join(names),
    }  # fmt: skip


def load_recommender(root: Path) -> tuple[Any, int]:
    """The recommender, and the first day after the data that it knows."""
    from serving import Recommender

    recommender = Recommender.load(root)
    return recommender, int(
        recommender.bundle.manifest["data"]["window"]["end"]
    ) // simulated_live_log.DAY + 1


def write_live_log(
    recommender: Any, first: int, days: int, quiet: int, knobs: DayConfig, per_day: int, seed: int
) -> Path:
    folder = FOLDER / "live"
    shutil.rmtree(folder, ignore_errors=True)
    return simulated_live_log.write_log(
        simulated_live_log.LiveShop(recommender.bundle, per_day, seed), folder, first, days, quiet, knobs
    )


def read_log_and_orders(recommender: Any, folder: Path, end: int) -> tuple[Any, Any, Any]:
    """The log and the orders before day `end`, and the windows of the bundle's labels."""
    from operations.monitoring import logged_slates
    from operations.monitoring import past_checkouts as orders

    windows = logged_slates.attribution_windows(recommender.bundle.manifest)
    with logged_slates.open_duckdb() as con:
        table = logged_slates.read_orders(con, folder / "orders.parquet", end * simulated_live_log.DAY)
        seen = logged_slates.read_attributed_log(
            con, folder / "events", table, windows, 0, end * simulated_live_log.DAY
        )
        return seen, orders.read_order_history(con, table), windows


if __name__ == "__main__":
    from training import runtime

    runtime.set_up_process()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else QUIET_DAYS)
