"""Query encoders side by side: recall on validation and the latency of the exported query tower.

    python -m benchmarks.query_encoders RUN RUN RUN         folders of finished retrieval stages

The tower is scripted and lowered as in a bundle and answers one checkout at a time on one thread. Recall is
that of the two towers alone, by exact search, as training noted it.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from data.io.batches import to_batch
from evaluation.cold_start import Towers, open_towers
from exporting.lowering import lower_query_tower, to_torchscript
from models.schema import Query
from reporting import tables
from serving.files import write_json
from training import runtime
from training.stage_folders import read_stage_manifest

CHECKOUTS, WARM_UP, ROUNDS = 200, 20, 3


def main(folders: list[str]) -> None:
    if not folders:
        sys.exit("usage: python -m benchmarks.query_encoders RUN [RUN ...]")
    torch.set_num_threads(1)
    opened = [open_towers(folder) for folder in folders]
    taken: list[list[Any]] = [[] for _ in opened]
    modules = [to_torchscript(lower_query_tower(towers.tower)) for towers in opened]
    for _ in range(ROUNDS):  # in turns, so that what else runs on the machine meets all alike
        for place, (towers, module) in enumerate(zip(opened, modules, strict=True)):
            taken[place] += latencies(module, towers)
    rows = []
    for folder, towers, times in zip(folders, opened, taken, strict=True):
        metrics = read_stage_manifest(Path(folder).resolve())["metrics"]
        query = towers.cfg.retrieval.model.query
        row = {"encoder": query._target_.rsplit(".", 1)[-1], "max_events": query.max_events}
        row |= {f"recall{k}": metrics[f"recall_{k}"] for k in (100, 300)}
        rows.append(row | {f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 99)})
    print(tables.text_table(rows))
    write_json(Path("reports/encoders.json"), rows)


@torch.inference_mode()
def latencies(module: torch.nn.Module, towers: Towers) -> list[float]:
    """Milliseconds of each of CHECKOUTS validation checkouts, evenly chosen, with their whole histories."""
    examples = pq.read_table(towers.prepared.folder / "examples" / "validation.parquet")
    chosen = np.linspace(0, len(examples) - 1, CHECKOUTS).astype(int)
    queries: list[Query] = [to_batch(examples.slice(row, 1)).query for row in chosen]
    for query in queries[:WARM_UP]:
        module(query, towers.catalog.vectors)
    taken = []
    for query in queries:
        started = time.perf_counter()
        module(query, towers.catalog.vectors)
        taken.append((time.perf_counter() - started) * 1e3)
    return taken


if __name__ == "__main__":
    runtime.set_up_process()
    main(sys.argv[1:])
