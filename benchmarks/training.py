"""How fast training is: workload W from disk, beside its bound and torch-rechub; and requests against rows.

    python -m benchmarks.training        some 10 minutes on 2 cores; writes reports/bench_training.json

    sextet     rows from Parquet on disk, shuffled, through this project's stream, tables, optimizers, trainer
    bound      the same model and optimizers in a bare loop, batches ready in memory: the machine's limit
    float32    the bound with the dense layers in float32
    rechub     torch-rechub with its own model, loader and trainer, data in memory, in an environment that
               this command makes from PyPI

Systems take turns, each trial in a process of its own; the figures are medians over the trials. Memory is
that of the sextet process, over ROWS rows and over ten times as many.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import peer_environments
from training import runtime

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "artifacts" / "bench_training"
REPORT = ROOT / "reports" / "bench_training.json"
RECHUB_PACKAGE = "torch-rechub==0.9.0"
TRIALS = 3
ROWS = 400_000  # of an epoch
RECHUB_ROWS = 40_960
WARM_UP = 10  # steps before the clock starts


def main() -> None:
    from benchmarks import request_level, workload  # after console.set_up: they load torch

    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "rows.parquet"
    if not file.exists():
        print(f"writing {10 * ROWS:,} rows to {file}", flush=True)
        workload.write_rows(file.with_suffix(".partial"), 10 * ROWS)
        file.with_suffix(".partial").rename(file)
    rechub = peer_environments.create_environment(
        FOLDER / "rechub", [RECHUB_PACKAGE], "torch_rechub", inherit_packages=True
    )
    found: dict[str, list[Any]] = {"sextet": [], "bound": [], "float32": [], "rechub": []}
    for trial in range(TRIALS):
        for system in ("sextet", "bound", "float32"):
            said = run_measurement([sys.executable, "-m", __spec__.name, system, str(ROWS)])
            found[system].append(json.loads(said))
            print(f"trial {trial + 1}: {system} {found[system][-1]}", flush=True)
        if rechub is not None:
            script = str(ROOT / "benchmarks" / "rechub_peer.py")
            said = run_measurement([str(rechub), script, str(file), str(RECHUB_ROWS)])
            found["rechub"].append({"samples_per_s": float(said)})
            print(f"trial {trial + 1}: rechub {found['rechub'][-1]}", flush=True)
    large = json.loads(run_measurement([sys.executable, "-m", __spec__.name, "sextet", str(10 * ROWS)]))
    report = summarize_trials(found, large) | request_level.measure()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=1))
    for name, value in report.items():
        print(f"{name:>32}  {value:,.3f}" if isinstance(value, float) else f"{name:>32}  {value}")
    print(f"written: {REPORT}")


def summarize_trials(found: dict[str, list[Any]], large: dict[str, float]) -> dict[str, Any]:
    """The report: medians, and ratios of what ran side by side."""
    speed = {
        s: statistics.median(t["samples_per_s"] for t in trials) for s, trials in found.items() if trials
    }
    report: dict[str, Any] = {f"{system}_samples_per_s": value for system, value in speed.items()}
    report["ratio_to_bound"] = speed["sextet"] / speed["bound"]
    report["ratio_to_rechub"] = speed["sextet"] / speed["rechub"] if "rechub" in speed else None
    report["peak_rss_mb"] = statistics.median(trial["peak_rss_mb"] for trial in found["sextet"])
    report["peak_rss_mb_10x_rows"] = large["peak_rss_mb"]
    report["memory_ratio_10x_rows"] = large["peak_rss_mb"] / report["peak_rss_mb"]
    report["data_wait_share"] = statistics.median(trial["data_wait_share"] for trial in found["sextet"])
    report["rows"], report["trials"] = ROWS, TRIALS
    return report


def run_measurement(command: list[str]) -> str:
    """The last line that a measuring process prints. Raises RuntimeError with what it said where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout.strip().splitlines()[-1]


def measure_sextet(rows: int) -> dict[str, float]:
    """An epoch over the first `rows` rows of the file on disk, after WARM_UP steps."""
    import pytorch_lightning as pl

    from benchmarks import workload
    from data.io.stream import BatchStream, StreamOptions
    from training.distributed import processes
    from training.distributed.sharding import ShardedStrategy
    from training.throughput import Throughput

    class AfterWarmUp(Throughput):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == WARM_UP:
                super().on_train_batch_start(trainer, module, batch, 0)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self.found = self.rates(trainer)

    columns = [*workload.FEATURES, *workload.LABELS]
    options = StreamOptions(shuffle=True, stop=rows)
    stream = BatchStream(FOLDER / "rows.parquet", columns, workload.decode, workload.BATCH_SIZE, options)
    throughput = AfterWarmUp()
    processes.init_single_process_group("gloo")
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision="bf16-mixed", max_epochs=1, logger=False,
        strategy=ShardedStrategy(process_group_backend="gloo"), callbacks=[throughput],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(workload.WorkloadTask(), stream)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "samples_per_s": throughput.found["rows_per_s"],
        "data_wait_share": throughput.found["data_wait_share"],
        "peak_rss_mb": peak,
    }


def measure_in_memory(rows: int, bfloat16: bool) -> dict[str, float]:
    """The same model and optimizers in a bare loop over batches that are ready."""
    import torch

    from benchmarks import workload
    from data.io.parquet import iter_slices
    from training.distributed import processes
    from training.distributed.sharding import dense_parameters, shard

    processes.init_single_process_group("gloo")
    columns = [*workload.FEATURES, *workload.LABELS]
    batches = [
        workload.decode(table)
        for table in iter_slices(FOLDER / "rows.parquet", columns, 0, rows, workload.BATCH_SIZE)
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


if __name__ == "__main__":
    runtime.set_up_process()
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "sextet":
        print(json.dumps(measure_sextet(int(sys.argv[2]))))
    else:
        print(json.dumps(measure_in_memory(int(sys.argv[2]), bfloat16=sys.argv[1] == "bound")))
