"""Measures latency of serving a million items: by stage, with failing stages, and over HTTP under load.

    python -m benchmarks.serving                   a million items: about 12 minutes on 2 cores
    python -m benchmarks.serving 100_000           fewer items
    python -m benchmarks.serving measure BUNDLE    only one part: `measure`, `faults` or `loading`

The command writes a shop, trains on it for a minute and exports a bundle (kept in artifacts/bench_serving).
The store has 200 events of history per user. The in-process scenarios run on one core, with a deadline of 100
ms. Over HTTP, two workers and the open-loop client share the machine. Writes `reports/bench_serving.json`, a
row per scenario, and the page `reports/bench_serving.html`. Keep the machine quiet.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import large_shop, serving_http, serving_in_process
from benchmarks.commands import (
    ARTIFACTS,
    REPORTS,
    Row,
    measure_in_subprocess,
    print_rows,
    run_benchmark,
)
from benchmarks.short_training import train_and_export
from serving.command_line import argument
from serving.files import write_json, write_text

PROG = "python -m benchmarks.serving"
FOLDER = ARTIFACTS / "bench_serving"
REPORT = REPORTS / "bench_serving.json"


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Measure the latency of serving a large shop: by stage, with failing stages, and over HTTP under load.

    `measure`, `faults` or `loading` with a bundle root, in place of the number of items, measures only this
    part.
    """

    items: int = argument("items of the shop", default=1_000_000)


def benchmark(options: ServingOptions) -> int:
    """Measure all scenarios and write the report."""
    # Late: they would count in the memory of the measurements.
    from reporting import tables
    from reporting.serving_page import serving_page

    bundle = build_bundle(options.items)
    rows: list[Row] = []
    for measurement in MEASUREMENTS:
        rows += measure_in_subprocess(
            sys.executable, "-m", "benchmarks.serving", measurement.__name__, bundle
        )
    rows += serving_http.measure_scenarios(bundle, large_shop.USERS)
    write_json(REPORT, rows)
    introduction = (
        f"{options.items:,} items, {large_shop.USERS:,} users with 200 events, {os.cpu_count()} cores. "
        "In process everything is on one of them; over HTTP the client shares them with two workers."
    )
    page = serving_page(rows, f"Serving {options.items:,} items", introduction)
    write_text(REPORT.with_suffix(".html"), page)
    nested = ("stages", "over_time")
    print(tables.text_table([{k: v for k, v in row.items() if k not in nested} for row in rows]))
    for row in rows:
        if "stages" in row:
            print(tables.text_table([{"stage": name, **times} for name, times in row["stages"].items()]))
    print(f"written: {REPORT}")
    return 0


def build_bundle(items: int) -> Path:
    """The root of a bundle over a shop of `items`; a bundle of an earlier call is kept."""
    folder = FOLDER / str(items)
    if (folder / "bundle" / "current").exists():
        return folder / "bundle"
    return train_and_export(large_shop.write_shop(items, folder / "shop"), folder)


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """Measure one part of the benchmark in this process; print its rows as JSON."""

    bundle: Path = argument("bundle root")


def measure(options: BundleOptions) -> int:
    keep_to_one_core()
    return print_rows([serving_in_process.measure_latency(options.bundle)])


def faults(options: BundleOptions) -> int:
    keep_to_one_core()
    return print_rows(serving_in_process.measure_faults(options.bundle))


def loading(options: BundleOptions) -> int:
    return print_rows([serving_in_process.measure_loading(options.bundle)])


def keep_to_one_core() -> None:
    """Restart this command on one core, because torch and OpenMP count the cores when they are loaded."""
    if len(os.sched_getaffinity(0)) > 1:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        os.execv(sys.executable, sys.orig_argv)


MEASUREMENTS = (measure, faults, loading)

if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, *MEASUREMENTS))
