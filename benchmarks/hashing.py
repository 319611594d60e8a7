"""Measures retrieval quality by the size of the item id table.

The table has a row per item, or fewer rows with several hashes.

    python -m benchmarks.hashing                                  the defaults of configs/
    python -m benchmarks.hashing retrieval.train.share=0.2 …      any override of train.py

Trains retrieval once per row of the table (finished stages are reused), prints the table and writes
`reports/hashing.json`. Quality is that of the two towers alone, on validation, by exact search.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import run_benchmark
from data.prepare import prepare
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json
from training.config import ConfigError, check_overrides, compose_config
from training.prepared_data import open_prepared
from training.retrieval_stage import train_retrieval
from training.stage_folders import read_stage_manifest

PROG = "python -m benchmarks.hashing"
ITEMS_PER_ROW = (4, 16, 64)
HASHES = (1, 2)


@dataclass(frozen=True, kw_only=True)
class HashingOptions:
    """Measure retrieval quality by the size of the item id table."""

    overrides: tuple[str, ...] = argument("overrides of train.py", default=())


def benchmark(options: HashingOptions) -> int:
    """Train retrieval with every table size; write and print a row for each."""
    check_overrides("train", list(options.overrides))
    rows = [measure(options.overrides, 1, 1)]
    for items_per_row in ITEMS_PER_ROW:
        rows += [measure(options.overrides, items_per_row, hashes) for hashes in HASHES]
    print(text_table(rows))
    write_json(Path("reports/hashing.json"), rows)
    return 0


def measure(overrides: tuple[str, ...], items_per_row: int, hashes: int) -> dict[str, Any]:
    """Train with one table row per `items_per_row` items, and return the row of the results.

    An item's id vector is the sum of `hashes` table rows.
    """
    cfg = compose_config("train", [*overrides, "stage=retrieval"])
    prepared = open_prepared(prepare(cfg))
    rows = max(prepared.table_sizes["items"] // items_per_row, 2)
    if items_per_row > 1:
        cfg.retrieval.model.item.id_rows, cfg.retrieval.model.item.hashes = rows, hashes
    metrics = read_stage_manifest(train_retrieval(cfg, prepared))["metrics"]
    return {
        "items_per_row": items_per_row,
        "hashes": hashes if items_per_row > 1 else 0,
        "rows": rows,
        "float32_mb": table_bytes(rows, cfg.retrieval.model.dim, int8=False) / 1e6,
        "int8_mb": table_bytes(rows, cfg.retrieval.model.dim, int8=True) / 1e6,
        "recall100": metrics["recall_100"],
        "recall300": metrics["recall_300"],
    }


def table_bytes(rows: int, dim: int, int8: bool) -> int:
    """Return the bytes of a table.

    A float32 value has 4 bytes. An int8 value has 1 byte, and each row 8 more for its scale and offset.
    """
    return rows * (dim + 8) if int8 else rows * dim * 4


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError,)))
