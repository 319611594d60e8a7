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
from benchmarks.simulated_live_log import Knobs

FOLDER = serving.ROOT / "artifacts" / "bench_monitoring"
REPORT = serving.ROOT / "reports" / "bench_monitoring.json"
ITEMS, PER_DAY, QUIET, REFERENCE, HORIZON = 5_000, 1_000, 100, 28, 14
BEFORE = REFERENCE + HORIZON + 28  # days before the first that is judged: recent orders need the last 28


class Shift(NamedTuple):
    """A planted shift."""

    expected: str  # the figure that must raise an alarm, or one of several
    knobs: Knobs = Knobs()
    wait: int = 0  # days until its outcomes are in
    store_behind: int | None = None  # days, where a store is looked at
    probes: int | None = None  # of the index


SHIFTS = {
    "prices 10 % up": Shift("price over usual price", Knobs(price=1.1)),
    "baskets of a line more": Shift("basket size", Knobs(lines=3.0)),
    "another mix of categories": Shift("category of basket", Knobs(one_category=0.12)),
    "desktop users move to phones": Shift("device", Knobs(phone=0.4)),
    "three times as many new users": Shift("new users", Knobs(new_users=0.18)),
    "4 % of the items unknown": Shift("unknown items in baskets", Knobs(unknown_items=0.04)),
    "3 % of the words unknown": Shift("unknown context words", Knobs(unknown_words=0.03)),
    "scores shifted": Shift("p(click)", Knobs(taste=0.5)),
    "calibration off by 20 %": Shift("clicks over predicted", Knobs(said=1.25), wait=1),
    "click rate 20 % down": Shift("click rate, clicks over predicted", Knobs(clicked=0.8), wait=1),
    "fallbacks up to 3 %": Shift("fallback tiers", Knobs(fallback=0.03)),
    "slates of one category": Shift("categories in a slate", Knobs(monotony=0.3)),
    "store two days behind": Shift("buyers missing in the store", store_behind=2),
    "index searches one list": Shift("index recall", probes=1),
}


def main(quiet: int) -> None:
    from reporting import tables  # after console.set_up: they load torch

    root = made()
    rows = [quiet_days(root, quiet), *shifts(root)]
    tables.write_json(rows, REPORT)
    print(tables.text_table([{name: str(value) for name, value in row.items()} for row in rows]))
    print(f"written: {REPORT}")


def made() -> Path:
    """The root of a bundle over a shop whose orders have a device."""
    bundle = FOLDER / "bundle"
    if not (bundle / "current").exists():
        shop = large_shop.write(ITEMS, FOLDER / "shop")
        orders = pq.read_table(shop / "orders.parquet")
        if "device" not in orders.column_names:
            device = np.array(["phone", "desktop", "tablet"])[
                np.array([int(user[1:]) % 3 for user in orders["user_id"].to_pylist()])
            ]
            pq.write_table(orders.append_column("device", pa.array(device)), shop / "orders.parquet")
        runs = [f"paths.prepared={FOLDER / 'prepared'}", f"paths.runs={FOLDER / 'runs'}"]
        tracking = f"mlflow.tracking_uri=sqlite:///{FOLDER / 'mlflow.db'}"
        serving.run("train.py", "data=tables", f"data.root={shop}", *runs, tracking, *serving.SHORT)
        serving.run("export.py", f"run={FOLDER / 'runs' / 'latest'}", f"bundle.dir={bundle}", tracking)
    return bundle


def quiet_days(root: Path, quiet: int, per_day: int = PER_DAY, seed: int = 0) -> dict[str, Any]:
    """How many of so many days raised an alarm, on which nothing had changed; and by which figures."""
    from tqdm import tqdm

    from operations.monitoring import daily

    recommender, first = opened(root)
    days = BEFORE + quiet
    folder = written(recommender, first, days, days, Knobs(), per_day, seed)
    seen, orders, windows = read(recommender, folder, first + days)
    raised, by = 0, Counter[str]()
    for day in tqdm(range(first + BEFORE, first + days), desc="quiet days"):
        report = daily.examine(seen, orders, recommender, windows, day, REFERENCE)
        raised += bool(report.alarms)
        by.update({one.name for one in report.alarms})
    return {
        "what": f"{quiet} quiet days", "days with an alarm": raised, "statistics a day": len(report.found),
        "alarms": ", ".join(by),
    }  # fmt: skip


def shifts(root: Path, per_day: int = PER_DAY, seed: int = 1) -> list[dict[str, Any]]:
    """A row for each planted shift: whether it was found, and all that raised an alarm."""
    from tqdm import tqdm

    return [
        {"what": name, **found(root, shift, per_day, seed)}
        for name, shift in tqdm(SHIFTS.items(), desc="shifts")
    ]


def found(root: Path, shift: Shift, per_day: int = PER_DAY, seed: int = 1) -> dict[str, Any]:
    """What the monitor says of a shift."""
    from operations.monitoring import daily
    from serving import Recommender, open_store
    from serving.storage.vector_index import Effort
    from serving.stores import loading

    recommender, first = opened(root)
    day = first + BEFORE + shift.wait
    folder = written(recommender, first, BEFORE + shift.wait + 1, BEFORE, shift.knobs, per_day, seed)
    seen, orders, windows = read(recommender, folder, day + 1)
    if shift.probes is not None:
        worse = recommender.bundle.index.at(Effort(shift.probes))
        recommender = Recommender(replace(recommender.bundle, index=worse))
    store = None
    if shift.store_behind is not None:
        known = pq.read_table(folder / "orders.parquet")
        until = (day + 1 - shift.store_behind) * simulated_live_log.DAY
        (folder / "known").mkdir()
        pq.write_table(known.filter(pa.compute.field("ts") < until), folder / "known" / "orders.parquet")
        store = open_store(folder / "store.db")
        loading.load(store, folder / "known", lambda done, of: None)
    report = daily.examine(seen, orders, recommender, windows, day, REFERENCE, store, bundle_age=1e9)
    names = dict.fromkeys(one.name for one in report.alarms)
    names |= dict.fromkeys(one.name for one in report.limits if one.alarm)
    hits = [name for name in names if name in shift.expected.split(", ")]
    p = min((one.p for one in report.alarms if one.name in hits), default=None)
    return {
        "expected": shift.expected, "found": bool(hits), "p": "" if p is None else f"{p:.1e}",
        "alarms": ", ".join(names),
    }  # fmt: skip


def opened(root: Path) -> tuple[Any, int]:
    """The recommender, and the first day after the data that it knows."""
    from serving import Recommender

    recommender = Recommender.load(root)
    return recommender, int(
        recommender.bundle.manifest["data"]["window"]["end"]
    ) // simulated_live_log.DAY + 1


def written(
    recommender: Any, first: int, days: int, quiet: int, knobs: Knobs, per_day: int, seed: int
) -> Path:
    folder = FOLDER / "live"
    shutil.rmtree(folder, ignore_errors=True)
    return simulated_live_log.write(
        simulated_live_log.Shop(recommender.bundle, per_day, seed), folder, first, days, quiet, knobs
    )


def read(recommender: Any, folder: Path, end: int) -> tuple[Any, Any, Any]:
    """The log and the orders before day `end`, and the windows of the bundle's labels."""
    from operations.monitoring import logged_slates
    from operations.monitoring import past_checkouts as orders

    windows = logged_slates.windows_of(recommender.bundle.manifest)
    with logged_slates.connected() as con:
        table = logged_slates.read_orders(con, folder / "orders.parquet", end * simulated_live_log.DAY)
        seen = logged_slates.read_log(con, folder / "events", table, windows, 0, end * simulated_live_log.DAY)
        return seen, orders.orders_of(con, table), windows


if __name__ == "__main__":
    from training import runtime

    runtime.set_up()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else QUIET)
