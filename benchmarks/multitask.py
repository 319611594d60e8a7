"""Compares the multi-task variants: quality, calibration, training time and serving latency.

    python -m benchmarks.multitask                                         every variant of configs/ranker
    python -m benchmarks.multitask mmoe ple seed=1 ranker.train.epochs=1   two, with overrides of train.py
    python -m benchmarks.multitask cascade esmm esmm:escm2_dr experiment=simulated --seeds 0,1,2

A variant is the name of a network of configs/ranker. `network:loss` also names a loss of p(purchase | click).
`network:loss:weight` also has the weight of the counterfactual risk in this loss. All variants are trained.
Finished runs are reused, and runs of one seed share retrieval and candidates. Writes `reports/multitask.json`
and prints the table in Markdown; on simulated data, a second table compares with the truth. Use the
validation columns to choose a variant, and report the test columns.
"""

import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig

from benchmarks.commands import Row, run_benchmark
from benchmarks.multitask_truth import truth_metrics, truth_table
from data.errors import DataError
from data.io.batches import to_batch
from evaluation import protocol, scoring
from evaluation.task_quality import task_metrics
from exporting.exportable_run import latest_snapshot, latest_sources
from exporting.lowering import lower_modules, save_torchscript
from models.schema import Candidates
from reporting.tables import markdown_table
from serving.command_line import argument, option
from serving.files import write_json
from training.build_ranker import read_tasks
from training.config import ConfigError, compose_config
from training.config_files import CONFIG_DIR
from training.health import TrainingError
from training.pipeline import train_models
from training.trained_run import Run, open_run

PROG = "python -m benchmarks.multitask"
N_CANDIDATES = 300  # of a request
N_REQUESTS = 100
LOSS_VARIANTS = ("esmm:escm2_ips", "esmm:escm2_dr")  # compared by default, with the networks


def _parse_seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


@dataclass(frozen=True, kw_only=True)
class MultitaskOptions:
    """Compare the multi-task variants: quality, calibration, training time and serving latency."""

    words: tuple[str, ...] = argument("variants (default: all) and overrides of train.py", default=())
    seeds: tuple[int, ...] | None = option(
        None, "seeds, such as 0,1,2 (default: the config's)", parse=_parse_seeds, metavar="N,N,…"
    )
    split: Literal["validation", "test"] = option("test", "split of the comparison with the truth")
    out: Path = option(Path("reports"), "folder of multitask.json")

    @property
    def overrides(self) -> list[str]:
        return [word for word in self.words if "=" in word]

    @property
    def variants(self) -> list[str]:
        named = [word for word in self.words if "=" not in word]
        networks = sorted(file.stem for file in (CONFIG_DIR / "ranker").glob("*.yaml"))
        return named or [*networks, *LOSS_VARIANTS]

    @property
    def seed_overrides(self) -> list[list[str]]:
        """One list of overrides per seed; a single empty list without seeds."""
        return [[]] if self.seeds is None else [[f"seed={seed}"] for seed in self.seeds]


def benchmark(options: MultitaskOptions) -> int:
    """Train and measure the variants; write the rows and print the tables."""
    runs = [
        (variant, open_run(train_models(variant_config(variant, [*options.overrides, *seed]))))
        for seed in options.seed_overrides
        for variant in options.variants
    ]
    rows = [{"variant": variant, **variant_metrics(run)} for variant, run in runs]
    for row, milliseconds in zip(rows, measure_latencies([run for _, run in runs]), strict=True):
        row["latency_ms"] = milliseconds
    tables = [variants_table(rows)]
    if all(run.prepared.meta["name"] == "simulated" for _, run in runs):
        for row, (_, run) in zip(rows, runs, strict=True):
            row |= truth_metrics(run, options.split)
        tables.append(f"Against the truth, {options.split}:\n\n{truth_table(rows)}")
    report = options.out / "multitask.json"
    write_json(report, {"overrides": options.overrides, "split": options.split, "rows": rows})
    print("", *tables, f"written: {report}", sep="\n\n")
    return 0


def variant_config(variant: str, overrides: list[str]) -> DictConfig:
    """The config of train.py with the variant's network and loss. Raises ConfigError if it is invalid."""
    network, *settings = variant.split(":")
    keys = [f"tasks.purchase.{key}" for key in ("loss", "counterfactual_weight")]
    losses = [f"{key}={value}" for key, value in zip(keys, settings, strict=False)]
    cfg = compose_config("train", [f"ranker={network}", *losses, *overrides])
    read_tasks(cfg)  # a wrong loss is refused before the first training
    return cfg


def variant_metrics(run: Run) -> Row:
    """Return quality, calibration and size of a run, and the training time of its ranker.

    NDCG@6 is of slates by p(purchase), revenue@6 of slates by expected value. Both are means over the
    checkouts with a purchase. ECE is over all candidates of the test split.
    """
    row: Row = {"seed": run.cfg.seed}
    for split in ("validation", "test"):
        data = protocol.load_split(run.prepared.folder, split)
        all_checkouts = protocol.slices(data)[:1]
        scored = scoring.score_split(run, split)
        rankings = scoring.rankings_by_order(scored, run.tasks)
        for metric, order in (("ndcg6", "purchase"), ("revenue6", "value")):
            metrics = protocol.metrics_per_checkout(rankings[order], data, all_checkouts)
            row[f"{split}_{metric}"] = float(metrics[all_checkouts[0].name][metric].mean())
        if split == "test":
            quality = {task["task"]: task for task in task_metrics(scored, run.tasks)}
            row |= {f"ece_{name}": task["ece"] for name, task in quality.items() if "ece" in task}
            row["value_predicted_over_observed"] = quality["value"]["predicted_over_observed"]
    row["parameters"] = sum(p.numel() for p in run.ranker.multitask.parameters())
    row["training_seconds"] = run.manifest["training_seconds"]
    return row


def measure_latencies(runs: list[Run]) -> list[float]:
    """The median milliseconds of each run's exported ranker for one request, in one thread.

    The rankers run alternately on the same requests, so that other load on the machine affects them equally.
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
    """Return test checkouts with N_CANDIDATES candidates each.

    If there are none, the result has the checkouts with the most candidates.
    """
    examples = pq.read_table(run.candidates_folder / "test.parquet")
    lengths = pc.list_value_length(examples["candidate_item"]).to_numpy()
    rows = np.flatnonzero(lengths >= min(N_CANDIDATES, lengths.max()))[:N_REQUESTS]
    catalog = latest_snapshot(run.catalog)
    inputs = []
    for row in rows.tolist():
        batch = to_batch(examples.slice(row, 1))
        assert batch.candidates is not None
        query = batch.query._replace(snapshot=torch.zeros_like(batch.query.snapshot))
        fields = [field[:N_CANDIDATES] for field in batch.candidates[1:]]
        candidates = Candidates(torch.tensor([0, fields[0].numel()]), *fields)
        vector = run.query_tower(query, catalog.vectors)
        inputs.append((tuple(query), vector, tuple(candidates), tuple(catalog)))
    return inputs


def variants_table(rows: list[Row]) -> str:
    """The rows as a table in Markdown."""
    columns = {
        "variant": "variant", "seed": "seed",
        "NDCG@6 validation": "validation_ndcg6", "NDCG@6 test": "test_ndcg6",
        "revenue@6 validation": "validation_revenue6", "revenue@6 test": "test_revenue6",
        "ECE click": "ece_click", "ECE purchase": "ece_purchase", "parameters": "parameters",
        "training s": "training_seconds", "ms per request": "latency_ms",
    }  # fmt: skip
    digits = {"revenue": 2, "training": 0, "latency": 2}

    def cell(key: str, value: Any) -> str:
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{value:.{next((n for part, n in digits.items() if part in key), 4)}f}"

    lines = [[cell(key, row[key]) for key in columns.values()] for row in rows]
    return markdown_table([*columns], lines)


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, errors=(ConfigError, DataError, TrainingError)))
