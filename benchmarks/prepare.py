"""Measures how preparation scales on DuckDB: rows per second and peak memory.

    python -m benchmarks.prepare                              1, 10 and 100 million lines
    python -m benchmarks.prepare 1_000_000 10_000_000         these sizes

Users buy 500 lines a year in orders of eight lines, from 50,000 items; few items make most of the sales. Each
size is prepared in a separate process with `prepare.memory_limit` 4 GB and a history of MAX_HISTORY events.
Afterwards its files are removed. A size that needs more disk space than is free is skipped with a message.
Writes `reports/bench_prepare.json`.
"""

import resource
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.commands import ARTIFACTS, REPORTS, Row, measure_in_subprocess, print_rows, run_benchmark
from data.prepare import prepare as prepare_data
from models.schema import SECONDS_PER_DAY
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json
from training.config import compose_config

PROG = "python -m benchmarks.prepare"
FOLDER = ARTIFACTS / "bench_prepare"
REPORT = REPORTS / "bench_prepare.json"
SIZES = (1_000_000, 10_000_000, 100_000_000)
ITEMS, LINES_PER_USER, LINES_PER_ORDER = 50_000, 500, 8
MAX_HISTORY = 64
DISK_BYTES_PER_LINE = 400  # temporary files included
START_TS, YEAR_DAYS = 1_483_228_800, 365
LINES_PER_CHUNK = 2_000_000  # lines written at a time


@dataclass(frozen=True, kw_only=True)
class PrepareBenchmarkOptions:
    """Measure how preparation scales: rows per second and peak memory over simulated order lines."""

    sizes: tuple[int, ...] = argument("order lines of each shop", default=SIZES)


def benchmark(options: PrepareBenchmarkOptions) -> int:
    """Measure every size and write the report."""
    rows: list[Row] = []
    for lines in options.sizes:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        needed = lines * DISK_BYTES_PER_LINE
        if shutil.disk_usage(FOLDER).free < needed:
            print(f"{lines:,} lines are skipped: they need some {needed / 1e9:.0f} GB of disk", flush=True)
            continue
        print(f"writing {lines:,} lines", flush=True)
        write_shop(FOLDER, lines)
        rows += measure_in_subprocess(sys.executable, "-m", "benchmarks.prepare", "prepare", str(lines))
        print(text_table(rows), flush=True)
        write_json(REPORT, rows)
    shutil.rmtree(FOLDER, ignore_errors=True)
    return 0


def write_shop(folder: Path, lines: int, seed: int = 0) -> None:
    """Write `orders.parquet` and `items.parquet` of a shop with `lines` order lines."""
    rng = np.random.default_rng(seed)
    users = max(lines // LINES_PER_USER, 1)
    types = {
        "order_id": pa.int64(), "user_id": pa.int64(), "item_id": pa.int64(), "ts": pa.int64(),
        "quantity": pa.int64(), "price": pa.float64(),
    }  # fmt: skip
    price = np.round(rng.gamma(2.0, 2.0, ITEMS) + 0.5, 2)
    with pq.ParquetWriter(folder / "orders.parquet", pa.schema(types), compression="zstd") as writer:
        for start in range(0, lines, LINES_PER_CHUNK):
            n = min(LINES_PER_CHUNK, lines - start)
            order = (start + np.arange(n)) // LINES_PER_ORDER
            order_hash = order * 2_654_435_761 % 2**32
            user = order_hash % users
            ts = START_TS + order_hash * 40_503 % (YEAR_DAYS * SECONDS_PER_DAY)
            quantity = 1 + np.arange(n) % LINES_PER_ORDER  # no two lines of an order are the same
            item = (ITEMS * rng.random(n) ** 3).astype(np.int64)  # skewed: few items sell most
            columns = [order, user, item, ts, quantity, price[item]]
            writer.write_table(pa.table(columns, names=list(types)))
    titles = [f"item {i} of kind {i % 400}" for i in range(ITEMS)]
    category = [f"kind {i % 20}/kind {i % 400}" for i in range(ITEMS)]
    items = {"item_id": np.arange(ITEMS), "title": titles, "category": category, "price": price}
    pq.write_table(pa.table(items), folder / "items.parquet")


def measure_prepare(lines: int) -> Row:
    """Prepare the shop in FOLDER; return seconds, lines per second and this process's peak memory."""
    overrides = ["data=tables", f"data.root={FOLDER}", f"paths.prepared={FOLDER}/prepared"]
    overrides.append(f"features.max_history={MAX_HISTORY}")
    cfg = compose_config("train", overrides)
    started = time.monotonic()
    folder = prepare_data(cfg)
    seconds = time.monotonic() - started
    examples = sum(pq.read_metadata(file).num_rows for file in (folder / "examples").glob("*.parquet"))
    return {
        "lines": lines,
        "examples": examples,
        "seconds": round(seconds, 1),
        "lines_per_s": round(lines / seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "history": MAX_HISTORY,
    }


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Prepare the shop of a benchmark in this process; print its row as JSON."""

    lines: int = argument("order lines of the shop")


def prepare(options: PrepareOptions) -> int:
    return print_rows([measure_prepare(options.lines)])


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, prepare))
