"""Compares query encoders: recall on validation, and latency of the exported query tower.

    python -m benchmarks.query_encoders RUN RUN RUN         folders of finished retrieval stages

The tower is scripted and lowered as in a bundle. It encodes one checkout at a time on one thread. Recall is
that of the two towers alone by exact search; the command reads it from the training metrics.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.commands import run_benchmark
from data.io.batches import to_batch
from evaluation.cold_start import Towers, open_towers
from models.lowering import lower_query_tower
from models.schema import Query
from models.torchscript import to_torchscript
from reporting.tables import text_table
from serving.command_line import argument
from serving.files import write_json
from training.stage_folders import read_stage_manifest

PROG = "python -m benchmarks.query_encoders"
CHECKOUTS, WARM_UP, ROUNDS = 200, 20, 3


@dataclass(frozen=True, kw_only=True)
class QueryEncoderOptions:
    """Compare query encoders: recall on validation and the latency of the exported query tower."""

    runs: tuple[Path, ...] = argument("folders of finished retrieval stages", metavar="RUN")


def benchmark(options: QueryEncoderOptions) -> int:
    """Measure every run; write and print a row for each."""
    torch.set_num_threads(1)
    towers = {folder: open_towers(folder) for folder in options.runs}
    modules = {folder: to_torchscript(lower_query_tower(each.tower)) for folder, each in towers.items()}
    latencies: dict[Path, list[float]] = {folder: [] for folder in towers}
    for _ in range(ROUNDS):  # in turns, so that other load on the machine is shared alike
        for folder in towers:
            latencies[folder] += measure_latencies(modules[folder], towers[folder])
    rows = []
    for folder in towers:
        metrics = read_stage_manifest(folder.resolve())["metrics"]
        query = towers[folder].cfg.retrieval.model.query
        row = {"encoder": query._target_.rsplit(".", 1)[-1], "max_events": query.max_events}
        row |= {f"recall{k}": metrics[f"recall_{k}"] for k in (100, 300)}
        rows.append(row | {f"p{p}_ms": float(np.percentile(latencies[folder], p)) for p in (50, 99)})
    print(text_table(rows))
    write_json(Path("reports/encoders.json"), rows)
    return 0


@torch.inference_mode()
def measure_latencies(module: torch.nn.Module, towers: Towers) -> list[float]:
    """Measure milliseconds for each of CHECKOUTS evenly spread validation checkouts with whole histories."""
    examples = pq.read_table(towers.prepared.folder / "examples" / "validation.parquet")
    rows = np.linspace(0, len(examples) - 1, CHECKOUTS).astype(int)
    queries: list[Query] = [to_batch(examples.slice(row, 1)).query for row in rows]
    for query in queries[:WARM_UP]:
        module(query, towers.catalog.vectors)
    latencies = []
    for query in queries:
        started = time.perf_counter()
        module(query, towers.catalog.vectors)
        latencies.append((time.perf_counter() - started) * 1e3)
    return latencies


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark))
