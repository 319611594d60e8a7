"""Compares the sizes of the models: quality, training time and serving latency.

    python -m benchmarks.sizes                                   every size of configs/size
    python -m benchmarks.sizes s m seed=1 data=tables data.root=SHOP  two, with overrides of train.py

All sizes are trained (finished runs are reused). Writes `reports/sizes.json` and prints the table in
Markdown. Use the validation columns to choose a size, and report the test columns.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from benchmarks.commands import Row, run_benchmark
from benchmarks.multitask import measure_latencies, variant_metrics
from data.errors import DataError
from reporting.tables import markdown_table
from serving.command_line import argument, option
from serving.files import write_json
from training.config import ConfigError, compose_config
from training.health import TrainingError
from training.pipeline import train_models
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

PROG = "python -m benchmarks.sizes"
SIZES = ("xs", "s", "m", "l")
COLUMNS = {
    "size": "size", "parameters": "ranker's parameters", "recall_validation": "recall of candidates",
    "validation_ndcg6": "NDCG@6 validation", "test_ndcg6": "NDCG@6 test",
    "validation_revenue6": "revenue@6 validation", "test_revenue6": "revenue@6 test",
    "training_minutes": "all stages, min", "latency_ms": "ranker, ms per request",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SizesOptions:
    """Compare the sizes of the models: quality, training time and serving latency."""

    words: tuple[str, ...] = argument("sizes (default: all) and overrides of train.py", default=())
    out: Path = option(Path("reports"), "folder of sizes.json")

    @property
    def overrides(self) -> list[str]:
        return [word for word in self.words if "=" in word]

    @property
    def sizes(self) -> list[str]:
        return [word for word in self.words if "=" not in word] or [*SIZES]


def benchmark(options: SizesOptions) -> int:
    """Train and measure the sizes; write the rows and print the table."""
    rows, runs = [], []
    for size in options.sizes:
        started = time.monotonic()
        run = open_run(train_models(size_config(size, options.overrides)))
        # Of a run that is reused, nearly none.
        row: Row = {"size": size, "training_minutes": (time.monotonic() - started) / 60}
        recall = read_stage_manifest(run.candidates_folder)["recall"]
        rows.append(row | variant_metrics(run) | {"recall_validation": recall["validation"]})
        runs.append(run)
    for row, milliseconds in zip(rows, measure_latencies(runs), strict=True):
        row["latency_ms"] = milliseconds
    report = options.out / "sizes.json"
    write_json(report, {"overrides": options.overrides, "rows": rows})
    print("", sizes_table(rows), f"written: {report}", sep="\n\n")
    return 0


def size_config(size: str, overrides: list[str]) -> DictConfig:
    """The config of train.py for this size. Raises ConfigError if it is invalid."""
    return compose_config("train", [f"size={size}", *overrides])


def sizes_table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4f}" if value < 1 else f"{value:.2f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    return markdown_table([*COLUMNS.values()], [[cell(row[key]) for key in COLUMNS] for row in rows])


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError, DataError, TrainingError)))
