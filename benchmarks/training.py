"""Compares the training speed of Sextet, a bare loop (the machine's limit) and torch-rechub.

    python -m benchmarks.training        about 10 minutes on 2 cores; writes reports/bench_training.json

    sextet     reads shuffled rows from Parquet; uses this project's stream, tables, optimizers and trainer
    bound      trains the same model with the same optimizers in a bare loop over batches in memory
    float32    is `bound` with the dense layers in float32
    rechub     trains the model of torch-rechub with that library's loader and trainer on data in memory; the
               command installs torch-rechub from PyPI into a separate environment

The model and the synthetic data are in benchmarks/workload.py. The systems run alternately, and each trial
runs in a separate process. The figures are medians over the trials. Memory is measured for the sextet
process, over ROWS rows and over ten times as many. The report also has the rows of
benchmarks/request_level.py.
"""

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from benchmarks import peer_environments, workload
from benchmarks.commands import (
    ARTIFACTS,
    REPORTS,
    ROOT,
    Row,
    measure_in_subprocess,
    print_rows,
    run_benchmark,
)
from data.io.parquet import iter_slices
from data.io.stream import BatchStream, StreamOptions
from serving.command_line import argument
from serving.files import write_atomically, write_json
from training.distributed import processes
from training.distributed.sharding import ShardedStrategy, dense_parameters, shard
from training.throughput import Throughput

PROG = "python -m benchmarks.training"
FOLDER = ARTIFACTS / "bench_training"
REPORT = REPORTS / "bench_training.json"
RECHUB_PACKAGE = "torch-rechub==0.9.0"
TRIALS = 3
ROWS = 400_000  # of an epoch
RECHUB_ROWS = 40_960
WARM_UP = 10  # steps before the clock starts
COLUMNS = [*workload.FEATURES, *workload.LABELS]


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Measure training speed of Sextet, a bare loop and torch-rechub on one synthetic workload.

    The bare loop is the machine's limit. The command also compares batches of requests (one query, many
    candidates) with batches of rows (one query each).
    """


def benchmark(options: TrainingOptions) -> int:
    """Run all trials and write the report."""
    from benchmarks import request_level  # late: its modules would count in the memory of the trials

    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "rows.parquet"
    if not file.exists():
        print(f"writing {10 * ROWS:,} rows to {file}", flush=True)
        with write_atomically(file) as partial:
            workload.write_rows(partial, 10 * ROWS)
    rechub_python = peer_environments.create_environment(
        FOLDER / "rechub", [RECHUB_PACKAGE], "torch_rechub", inherit_packages=True
    )
    trials: dict[str, list[Row]] = {"sextet": [], "bound": [], "float32": [], "rechub": []}
    for number in range(1, TRIALS + 1):
        for system in ("sextet", "bound", "float32"):
            trials[system].append(_measure_system(system, ROWS))
            print(f"trial {number}: {system} {trials[system][-1]}", flush=True)
        if rechub_python is not None:
            trials["rechub"].append(_measure_rechub(rechub_python, file))
            print(f"trial {number}: rechub {trials['rechub'][-1]}", flush=True)
    report = summarize_trials(trials, _measure_system("sextet", 10 * ROWS)) | request_level.measure()
    write_json(REPORT, report)
    for name, value in report.items():
        print(f"{name:>32}  {value:,.3f}" if isinstance(value, float) else f"{name:>32}  {value}")
    print(f"written: {REPORT}")
    return 0


def _measure_system(system: str, rows: int) -> Row:
    (row,) = measure_in_subprocess(sys.executable, "-m", "benchmarks.training", system, str(rows))
    return row


def _measure_rechub(python: Path, file: Path) -> Row:
    script = ROOT / "benchmarks" / "rechub_peer.py"
    (row,) = measure_in_subprocess(python, script, file, str(RECHUB_ROWS))
    return row


def summarize_trials(trials: dict[str, list[Row]], large_trial: Row) -> Row:
    """Return the row of the report: each system's median over its trials, and ratios between systems."""

    def median(system: str, field: str) -> float:
        return statistics.median(trial[field] for trial in trials[system])

    speed = {system: median(system, "samples_per_s") for system in trials if trials[system]}
    report: Row = {f"{system}_samples_per_s": value for system, value in speed.items()}
    report["ratio_to_bound"] = speed["sextet"] / speed["bound"]
    report["ratio_to_rechub"] = speed["sextet"] / speed["rechub"] if "rechub" in speed else None
    report["peak_rss_mb"] = median("sextet", "peak_rss_mb")
    report["peak_rss_mb_10x_rows"] = large_trial["peak_rss_mb"]
    report["memory_ratio_10x_rows"] = large_trial["peak_rss_mb"] / report["peak_rss_mb"]
    report["data_wait_share"] = median("sextet", "data_wait_share")
    report["rows"], report["trials"] = ROWS, TRIALS
    return report


class ThroughputAfterWarmUp(Throughput):
    """Measures the throughput of the only epoch, from step WARM_UP on."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index == WARM_UP:
            super().on_train_batch_start(trainer, module, batch, 0)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.epoch_rates = self.rates(trainer)


def measure_sextet(rows: int) -> Row:
    """Speed and memory of Sextet in an epoch over the first `rows` rows on disk, after WARM_UP steps."""
    options = StreamOptions(shuffle=True, stop=rows)
    stream = BatchStream(FOLDER / "rows.parquet", COLUMNS, workload.decode, workload.BATCH_SIZE, options)
    throughput = ThroughputAfterWarmUp()
    processes.init_single_process_group("gloo")
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision="bf16-mixed", max_epochs=1, logger=False,
        strategy=ShardedStrategy(process_group_backend="gloo"), callbacks=[throughput],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(workload.WorkloadTask(), stream)
    return {
        "samples_per_s": throughput.epoch_rates["rows_per_s"],
        "data_wait_share": throughput.epoch_rates["data_wait_share"],
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_in_memory(rows: int, bfloat16: bool) -> Row:
    """Speed of the same model and optimizers in a bare loop over batches in memory."""
    processes.init_single_process_group("gloo")
    batches = [
        workload.decode(table)
        for table in iter_slices(FOLDER / "rows.parquet", COLUMNS, 0, rows, workload.BATCH_SIZE)
        if len(table) == workload.BATCH_SIZE
    ]
    model = shard(workload.WorkloadMMoE(), 0.02, torch.device("cpu"))
    optimizer = torch.optim.AdamW(dense_parameters(model), lr=1e-3, fused=True)
    started = 0.0
    for step, (ids, labels) in enumerate(batches):
        if step == WARM_UP:
            started = time.monotonic()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(ids)
        loss = workload.bce_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = time.monotonic() - started
    return {"samples_per_s": (len(batches) - WARM_UP) * workload.BATCH_SIZE / seconds}


@dataclass(frozen=True, kw_only=True)
class TrialOptions:
    """Measure one trial of a system in this process; print its row as JSON."""

    rows: int = argument("rows of the epoch")


def sextet(options: TrialOptions) -> int:
    return print_rows([measure_sextet(options.rows)])


def bound(options: TrialOptions) -> int:
    return print_rows([measure_in_memory(options.rows, bfloat16=True)])


def float32(options: TrialOptions) -> int:
    return print_rows([measure_in_memory(options.rows, bfloat16=False)])


if __name__ == "__main__":
    sys.exit(run_benchmark(PROG, benchmark, sextet, bound, float32))
