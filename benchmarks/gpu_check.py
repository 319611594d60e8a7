"""Whether training on GPUs does what training on the CPU does. Says that it was skipped where there is none.

    make gpu-check

1. One step of the ranker in float32 on both: the same loss and gradients.
2. A small run with `trainer=gpu` (bfloat16) beside `trainer=cpu`: the same validation metrics.
3. The same over all GPUs by torchrun, with row-wise tables, exported on the CPU.

Writes what it found to `reports/gpu_check.json` with the device's name. Exits with 1 where something differs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training import runtime

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "reports" / "gpu_check.json"
TOLERANCES = {"val_purchase_auc": 0.01, "val_loss": 0.1}  # how far validation metrics may lie apart


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        print("gpu-check was skipped: torch sees no GPU here")
        return
    count = torch.cuda.device_count()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "count": count,
        "torch": torch.__version__,
    }
    found |= step_parity(torch.device("cuda"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_shop(folder / "shop")
        metrics = {
            "cpu": train_run(folder, "cpu", [sys.executable], "trainer=cpu"),
            "gpu": train_run(folder, "gpu", [sys.executable], "trainer=gpu"),
        }
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        sharded = [*launcher, "--nproc-per-node", str(count)]
        metrics["sharded"] = train_run(folder, "sharded", sharded, "trainer=gpu", "trainer.sharding=row_wise")
        run_command(
            [sys.executable, "export.py", f"run={folder}/sharded/runs/latest", f"bundle.dir={folder}/bundle"]
        )
        found["exported"] = (folder / "bundle" / "current").exists()
    found |= {f"{run}_{name}": metrics[run][name] for run in metrics for name in TOLERANCES}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1))
    for name, value in found.items():
        print(f"{name:>28}  {value}")
    wrong = [
        f"{run}: {name} {metrics[run][name]:.4f}, on the CPU {metrics['cpu'][name]:.4f}"
        for run in ("gpu", "sharded")
        for name, apart in TOLERANCES.items()
        if abs(metrics[run][name] - metrics["cpu"][name]) > apart
    ]
    wrong += [] if found["exported"] else ["the sharded run could not be exported"]
    wrong += [] if found["gradient_difference"] < 1e-3 else ["gradients differ between CPU and GPU"]
    if wrong:
        sys.exit("gpu-check failed: " + "; ".join(wrong))


def step_parity(device: Any) -> dict[str, float]:
    """The losses of one step on CPU and GPU, and the largest relative difference of gradient norms."""
    import torch

    from benchmarks import request_level
    from models.jagged import segment_ids
    from training.distributed.sharding import to_device
    from training.task_losses import task_losses

    query, candidates, catalog, labels = request_level.random_batch()
    mix = {"pointwise": 1.0, "pairwise": 0.0, "listwise": 0.2, "lambda": 0.0, "value_share": 0.5}
    results = []
    for place in (torch.device("cpu"), device):
        tower, ranker, *_ = request_level.build_train_step(catalog, labels).args
        tower, ranker = tower.to(place), ranker.to(place)
        asked, listed = to_device(query, place), to_device(candidates, place)
        facts, truth = to_device(catalog, place), to_device(labels, place)
        with torch.no_grad():
            vector = tower(asked, facts.vectors)
        losses = task_losses(
            ranker(asked, vector, listed, facts), truth, segment_ids(listed.offsets), mix, entire_space=True
        )
        loss = sum(losses.values(), torch.zeros((), device=place))
        loss.backward()
        norms = [p.grad.norm().cpu() for p in ranker.parameters() if p.grad is not None]
        results.append((float(loss.detach()), torch.stack(norms)))
    (cpu_loss, cpu_norms), (gpu_loss, gpu_norms) = results
    difference = ((cpu_norms - gpu_norms).abs() / cpu_norms.clamp_min(1e-6)).max()
    return {"cpu_loss": cpu_loss, "gpu_loss": gpu_loss, "gradient_difference": float(difference)}


def write_shop(folder: Path) -> None:
    """A small simulated shop's tables, by the benchmark of preparation."""
    from benchmarks import prepare

    folder.mkdir(parents=True)
    prepare.write_shop(folder, 100_000)


def train_run(folder: Path, name: str, launcher: list[str], *overrides: str) -> dict[str, float]:
    """The metrics of a small run."""
    runs = folder / name / "runs"
    run_command(
        [
            *launcher, "train.py", "experiment=debug", "data=tables", f"data.root={folder}/shop",
            f"paths.prepared={folder}/prepared", f"paths.runs={runs}", "ranker.train.batch_size=64",
            f"mlflow.tracking_uri=sqlite:///{folder}/{name}.db", *overrides,
        ]
    )  # fmt: skip
    (done,) = runs.glob("ranker-*/done.json")
    return json.loads(done.read_text())["metrics"]


def run_command(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"gpu-check failed: {' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    runtime.set_up_process()
    main()
