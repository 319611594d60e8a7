"""How preparation scales: rows per second and peak memory over simulated order lines, on DuckDB.

    python -m benchmarks.prepare                              1, 10 and 100 million lines
    python -m benchmarks.prepare 1_000_000 10_000_000         these sizes

Users of 500 lines a year, orders of some eight lines, 50,000 items of which few sell most. Each size is
prepared in a process of its own, `prepare.memory_limit` 4 GB, with HISTORY facts in a history, and removed
again; a size that the disk has no room for is skipped, and said so. Writes `reports/bench_prepare.json`.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training import runtime

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "artifacts" / "bench_prepare"
REPORT = ROOT / "reports" / "bench_prepare.json"
SIZES = (1_000_000, 10_000_000, 100_000_000)
ITEMS, LINES_PER_USER, LINES_PER_ORDER = 50_000, 500, 8
MAX_HISTORY = 64
DISK_BYTES_PER_LINE = 400  # bytes that a line needs, with what spills
START_TS, YEAR_DAYS, DAY = 1_483_228_800, 365, 86_400
LINES_PER_CHUNK = 2_000_000  # lines written at a time


def main(sizes: list[int]) -> None:
    from reporting import tables  # after console.set_up
    from serving.files import write_json

    rows: list[dict[str, Any]] = []
    for lines in sizes:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        free = shutil.disk_usage(FOLDER).free
        if free < lines * DISK_BYTES_PER_LINE:
            print(
                f"{lines:,} lines are skipped: they need some {lines * DISK_BYTES_PER_LINE / 1e9:.0f} GB of disk",
                flush=True,
            )
            continue
        print(f"writing {lines:,} lines", flush=True)
        write_shop(FOLDER, lines)
        command = [sys.executable, "-m", __spec__.name, "prepare", str(lines)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(tables.text_table(rows), flush=True)
        write_json(REPORT, rows)
    shutil.rmtree(FOLDER, ignore_errors=True)


def write_shop(folder: Path, lines: int, seed: int = 0) -> None:
    """`orders.parquet` and `items.parquet` of a shop with so many order lines."""
    rng = np.random.default_rng(seed)
    users = max(lines // LINES_PER_USER, 1)
    kinds = {
        "order_id": pa.int64(), "user_id": pa.int64(), "item_id": pa.int64(), "ts": pa.int64(),
        "quantity": pa.int64(), "price": pa.float64(),
    }  # fmt: skip
    price = np.round(rng.gamma(2.0, 2.0, ITEMS) + 0.5, 2)
    with pq.ParquetWriter(folder / "orders.parquet", pa.schema(kinds), compression="zstd") as writer:
        for start in range(0, lines, LINES_PER_CHUNK):
            n = min(LINES_PER_CHUNK, lines - start)
            order = (start + np.arange(n)) // LINES_PER_ORDER
            scattered = order * 2_654_435_761 % 2**32
            user = scattered % users
            ts = START_TS + scattered * 40_503 % (YEAR_DAYS * DAY)
            quantity = 1 + np.arange(n) % LINES_PER_ORDER  # no two lines of an order are the same
            # Few items sell most: a power of a uniform number.
            item = (ITEMS * rng.random(n) ** 3).astype(np.int64)
            columns = [order, user, item, ts, quantity, price[item]]
            writer.write_table(pa.table(columns, names=list(kinds)))
    names = [f"item {i} of kind {i % 400}" for i in range(ITEMS)]
    category = [f"kind {i % 20}/kind {i % 400}" for i in range(ITEMS)]
    items = {"item_id": np.arange(ITEMS), "title": names, "category": category, "price": price}
    pq.write_table(pa.table(items), folder / "items.parquet")


def measure_prepare(lines: int) -> dict[str, Any]:
    """Prepare the shop in FOLDER: seconds, rows per second and this process's peak memory."""
    from hydra import compose, initialize_config_dir

    from data.prepare import prepare
    from training.config import CONFIG_DIR

    overrides = ["data=tables", f"data.root={FOLDER}", f"paths.prepared={FOLDER}/prepared"]
    overrides.append(f"features.max_history={MAX_HISTORY}")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    started = time.monotonic()
    folder = prepare(cfg)
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


if __name__ == "__main__":
    runtime.set_up_process()
    if sys.argv[1:2] == ["prepare"]:
        print(json.dumps(measure_prepare(int(sys.argv[2]))))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
