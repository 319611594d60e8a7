"""The multi-task variants side by side: quality, calibration, training time and serving latency.

    python -m benchmarks.multitask                                    every variant of configs/ranker
    python -m benchmarks.multitask mmoe ple seed=1 ranker.train.epochs=1   some, with overrides as of train.py

Trains what is not trained yet (all variants share retrieval and candidates), writes `reports/multitask.json`
and prints the table in Markdown. Choose by the validation columns; the test columns are the report.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from data.errors import DataError
from data.io.batches import to_batch
from evaluation import protocol, scoring
from exporting.exportable_run import latest_snapshot, latest_sources
from exporting.lowering import lower_modules, save_torchscript
from models.schema import Candidates
from training import runtime
from training.config import CONFIG_DIR, ConfigError, check_overrides, check_values
from training.health import TrainingError
from training.pipeline import train_models as train
from training.trained_run import Run, open_run

N_CANDIDATES = 300  # of a request
N_REQUESTS = 100


def main() -> None:
    runtime.set_up_process()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.multitask", description=__doc__.split("\n")[0]
    )
    parser.add_argument("words", nargs="*", help="variants (default: all) and overrides of train.py")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    arguments = parser.parse_args()
    overrides = [word for word in arguments.words if "=" in word]
    variants = [word for word in arguments.words if "=" not in word] or sorted(
        file.stem for file in (CONFIG_DIR / "ranker").glob("*.yaml")
    )
    try:
        runs = {variant: open_run(train(variant_config(variant, overrides))) for variant in variants}
    except (ConfigError, DataError, TrainingError) as error:
        sys.exit(f"error: {error}")
    rows = [{"variant": variant, **variant_metrics(run)} for variant, run in runs.items()]
    for row, milliseconds in zip(rows, measure_latencies(list(runs.values())), strict=True):
        row["latency_ms"] = milliseconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = arguments.out / "multitask.json"
    written.write_text(json.dumps({"overrides": overrides, "rows": rows}, indent=1) + "\n")
    print(f"\n{markdown_table(rows)}\n\nwritten: {written}")


def variant_config(variant: str, overrides: list[str]) -> DictConfig:
    """The config of train.py with this ranker. Raises ConfigError as train.py does."""
    chosen = [f"ranker={variant}", *overrides]
    check_overrides("train", chosen)
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose("train", overrides=chosen)
    check_values(cfg)
    return cfg


def variant_metrics(run: Run) -> dict[str, Any]:
    """Quality and calibration of a run, its size, and how long its ranker trained.

    NDCG@6 in the order of p(purchase), revenue@6 in that of expected value, over the checkouts with a
    purchase; ECE over all candidates of the test.
    """
    row: dict[str, Any] = {"seed": run.cfg.seed}
    for split in ("validation", "test"):
        data = protocol.load_split(run.prepared.folder, split)
        everything = protocol.slices(data)[:1]
        scored = scoring.score_split(run, split)
        orders = scoring.rankings_by_order(scored)
        for metric, order in (("ndcg6", "purchase"), ("revenue6", "value")):
            found = protocol.metrics_per_checkout(orders[order], data, everything)[everything[0].name]
            row[f"{split}_{metric}"] = float(found[metric].mean())
        if split == "test":
            row |= {
                f"ece_{head['head']}": head["ece"] for head in scoring.head_metrics(scored) if "ece" in head
            }
            row["value_predicted_over_observed"] = scoring.head_metrics(scored)[-1]["predicted_over_observed"]
    row["parameters"] = sum(p.numel() for p in run.ranker.multitask.parameters())
    row["training_seconds"] = run.manifest["training_seconds"]
    return row


def measure_latencies(runs: list[Run]) -> list[float]:
    """Median milliseconds in which each run's exported ranker scores one request, in one thread.

    The rankers take turns on the same requests, so that the load of the machine is shared alike.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rankers, inputs = [], []
    for run in runs:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated
            save_torchscript(lower_modules(run.query_tower, latest_sources(run), run.ranker), Path(folder))
            rankers.append(torch.jit.load(f"{folder}/ranker.ts"))
        inputs.append(ranker_inputs(run))
    times = np.zeros([len(inputs[0]), len(runs)])
    with torch.inference_mode():
        for turn in range(-5, len(times)):  # the first few let TorchScript specialise
            for i, ranker in enumerate(rankers):
                request = inputs[i][turn % len(times)]
                started = time.perf_counter()
                ranker(*request)
                if turn >= 0:
                    times[turn, i] = 1000 * (time.perf_counter() - started)
    torch.set_num_threads(threads)
    return np.median(times, axis=0).tolist()


@torch.no_grad()
def ranker_inputs(run: Run) -> list[tuple[Any, ...]]:
    """Test checkouts with CANDIDATES candidates each: those with the most if few have so many."""
    examples = pq.read_table(run.candidates_folder / "test.parquet")
    lengths = pc.list_value_length(examples["candidate_item"]).to_numpy()
    enough = np.flatnonzero(lengths >= min(N_CANDIDATES, lengths.max()))[:N_REQUESTS]
    catalog = latest_snapshot(run.catalog)
    found = []
    for at in enough.tolist():
        batch = to_batch(examples.slice(at, 1))
        assert batch.candidates is not None
        query = batch.query._replace(snapshot=torch.zeros_like(batch.query.snapshot))
        fields = [field[:N_CANDIDATES] for field in batch.candidates[1:]]
        candidates = Candidates(torch.tensor([0, fields[0].numel()]), *fields)
        vector = run.query_tower(query, catalog.vectors)
        found.append((tuple(query), vector, tuple(candidates), tuple(catalog)))
    return found


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    columns = {
        "variant": "variant", "NDCG@6 validation": "validation_ndcg6", "NDCG@6 test": "test_ndcg6",
        "revenue@6 validation": "validation_revenue6", "revenue@6 test": "test_revenue6",
        "ECE click": "ece_click", "ECE purchase": "ece_purchase", "parameters": "parameters",
        "training s": "training_seconds", "ms per request": "latency_ms",
    }  # fmt: skip
    digits = {"revenue": 2, "training": 0, "latency": 2}

    def cell(key: str, value: Any) -> str:
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{value:.{next((n for part, n in digits.items() if part in key), 4)}f}"

    lines = [list(columns), ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[cell(key, row[key]) for key in columns.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
