"""Checks that training on GPUs gives the same results as on the CPU. Skipped without a GPU.

    make gpu-check

1. One step of the ranker in float32 on GPU and CPU has the same loss and gradients.
2. A small run with `trainer=gpu` (bfloat16) and one with `trainer=cpu` have the same validation metrics.
3. So has a small run by torchrun over all GPUs, with row-wise tables; it is exported on the CPU.

Writes the figures and the device's name to `reports/gpu_check.json`. Exits 1 if GPU and CPU differ.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import prepare, request_level
from benchmarks.commands import REPORTS, ROOT, Row, run_benchmark
from serving.files import write_json
from training.distributed.sharding import to_device

REPORT = REPORTS / "gpu_check.json"
TOLERANCES = {"val_purchase_auc": 0.01, "val_loss": 0.1}  # largest differences of validation metrics
MAX_GRADIENT_DIFFERENCE = 1e-3
LOSS_WEIGHTS = {"pointwise": 1.0, "pairwise": 0.0, "listwise": 0.2, "lambda": 0.0}
Metrics = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GpuCheckOptions:
    """Check that training on GPUs gives the same results as training on the CPU."""


def check(options: GpuCheckOptions) -> int:
    """Run all three comparisons; write and print the figures."""
    if not torch.cuda.is_available():
        print("gpu-check was skipped: torch sees no GPU here")
        return 0
    report: Row = {
        "device": torch.cuda.get_device_name(),
        "count": torch.cuda.device_count(),
        "torch": torch.__version__,
        **step_parity(torch.device("cuda")),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        metrics = train_runs(folder, report["count"])
        run_command(
            [sys.executable, "export.py", f"run={folder}/sharded/runs/latest", f"bundle.dir={folder}/bundle"]
        )
        report["exported"] = (folder / "bundle" / "current").exists()
    report |= {f"{run}_{name}": metrics[run][name] for run in metrics for name in TOLERANCES}
    write_json(REPORT, report)
    for name, value in report.items():
        print(f"{name:>28}  {value}")
    if differences := find_differences(report, metrics):
        sys.exit("gpu-check failed: " + "; ".join(differences))
    return 0


def find_differences(report: Row, metrics: dict[str, Metrics]) -> list[str]:
    """A sentence for each figure that differs between CPU and GPU."""
    differences = [
        f"{run}: {name} {metrics[run][name]:.4f}, on the CPU {metrics['cpu'][name]:.4f}"
        for run in ("gpu", "sharded")
        for name, tolerance in TOLERANCES.items()
        if abs(metrics[run][name] - metrics["cpu"][name]) > tolerance
    ]
    differences += [] if report["exported"] else ["the sharded run could not be exported"]
    if report["gradient_difference"] >= MAX_GRADIENT_DIFFERENCE:
        differences.append("gradients differ between CPU and GPU")
    return differences


def step_parity(device: torch.device) -> Metrics:
    """Return a step's loss on CPU and on GPU, and the largest relative difference of a gradient norm."""
    (cpu_loss, cpu_norms), (gpu_loss, gpu_norms) = map(_loss_and_norms, (torch.device("cpu"), device))
    difference = ((cpu_norms - gpu_norms).abs() / cpu_norms.clamp_min(1e-6)).max()
    return {"cpu_loss": cpu_loss, "gpu_loss": gpu_loss, "gradient_difference": float(difference)}


def _loss_and_norms(device: torch.device) -> tuple[float, torch.Tensor]:
    """Return the loss of a step on `device`, and each parameter's gradient norm, moved to the CPU."""
    query, candidates, catalog, labels = request_level.random_batch()
    step = request_level.build_train_step(catalog, labels, device)
    loss = step.loss(to_device(query, device), to_device(candidates, device), LOSS_WEIGHTS)
    loss.backward()
    norms = [p.grad.norm().cpu() for p in step.ranker.parameters() if p.grad is not None]
    return float(loss.detach()), torch.stack(norms)


def train_runs(folder: Path, gpus: int) -> dict[str, Metrics]:
    """Train small runs on the CPU, on one GPU, and sharded over all GPUs; return their metrics."""
    shop = folder / "shop"
    shop.mkdir(parents=True)
    prepare.write_shop(shop, 100_000)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", str(gpus)]
    return {
        "cpu": train_run(folder, "cpu", [sys.executable], "trainer=cpu"),
        "gpu": train_run(folder, "gpu", [sys.executable], "trainer=gpu"),
        "sharded": train_run(folder, "sharded", torchrun, "trainer=gpu", "trainer.sharding=row_wise"),
    }


def train_run(folder: Path, name: str, launcher: list[str], *overrides: str) -> Metrics:
    """Train a small run and return its metrics."""
    runs = folder / name / "runs"
    run_command(
        [
            *launcher, "train.py", "experiment=debug", "data=tables", f"data.root={folder}/shop",
            f"paths.prepared={folder}/prepared", f"paths.runs={runs}", "ranker.train.batch_size=64",
            f"mlflow.tracking_uri=sqlite:///{folder}/{name}.db", *overrides,
        ]
    )  # fmt: skip
    (manifest,) = runs.glob("ranker-*/done.json")
    metrics: Metrics = json.loads(manifest.read_text())["metrics"]
    return metrics


def run_command(command: list[str]) -> None:
    """Run a command without output. Exits 1 with the end of its output if it fails."""
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode != 0:
        sys.exit(f"gpu-check failed: {' '.join(command)}\n{process.stdout[-1500:]}\n{process.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.gpu_check", check))
