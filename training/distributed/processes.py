"""The processes of a run: one process, or all that `torchrun` started.

    torchrun --nproc-per-node 2 train.py trainer=distributed

Every process runs the same stages. Only the first process prepares data, gathers candidates and writes files,
while the others wait. All processes train (training/distributed/sharding.py).
"""

import gc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from training.errors import ConfigError
from training.stage_folders import lock_folder

T = TypeVar("T")
RANK_ZERO_TIMEOUT = timedelta(days=7)  # for work of the first process; if that dies, torchrun ends the others


def init_processes(cfg: DictConfig) -> None:
    """Join the process group of the run.

    Raises ConfigError for several processes without a trainer for them, and for a missing GPU.
    """
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here. Use trainer=cpu")
    n_processes = int(os.environ.get("WORLD_SIZE", "1"))
    if n_processes == 1:
        init_single_process_group(backend(cfg))
        return
    if not cfg.trainer.processes:
        raise ConfigError(f"torchrun started {n_processes} processes: add trainer=distributed or trainer=gpu")
    batch_size = min(cfg.retrieval.train.batch_size, cfg.ranker.train.batch_size)
    if n_processes > batch_size:
        raise ConfigError(
            f"{n_processes} processes cannot share a batch of {batch_size} rows: raise batch_size, or start "
            "fewer processes"
        )
    if cfg.trainer.accelerator == "gpu":
        local_rank, n_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise ConfigError(
                f"torchrun starts more processes than this machine has GPUs ({n_gpus}): start fewer"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group(backend(cfg), timeout=timedelta(minutes=cfg.trainer.timeout_minutes))


def init_single_process_group(backend: str) -> None:
    """Create a process group of this process alone, without opening a port."""
    if not dist.is_initialized():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def shutdown() -> None:
    """Leave the process group.

    Unreachable sharded models keep the group alive in reference cycles, so garbage collection runs first.
    Otherwise the group's threads outlive the interpreter and abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def backend(cfg: DictConfig) -> str:
    """The backend of the collectives: gloo; with GPUs, gloo and NCCL."""
    return "cpu:gloo,cuda:nccl" if cfg.trainer.accelerator == "gpu" else "gloo"


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def stream_share() -> dict[str, Any]:
    """The arguments of `read_batches` for this process's share of every batch."""
    return {"rank": rank(), "world_size": world_size()}


def lock_on_rank_zero(folder: Path) -> AbstractContextManager[None]:
    """Lock a folder. The first process holds the lock for all processes."""
    return lock_folder(folder) if rank() == 0 else nullcontext()


def on_rank_zero(work: Callable[[], T]) -> T:
    """Run `work` in the first process and return its result in all processes.

    The result must be picklable.
    """
    if world_size() == 1:
        return work()
    group = dist.new_group(backend="gloo", timeout=RANK_ZERO_TIMEOUT)
    result: list[Any] = [work() if rank() == 0 else None]
    dist.broadcast_object_list(result, src=0, group=group)
    dist.destroy_process_group(group)
    return result[0]


def all_gather_rows(rows: Tensor) -> Tensor:
    """Gathers the rows [n, …] of all processes, in the order of ranks; n may differ. Gradients flow back."""
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([rows.shape[0]], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = torch.cat([rows, rows.new_zeros([max(sizes) - rows.shape[0], *rows.shape[1:]])])
    parts = AllGather.apply(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class AllGather(torch.autograd.Function):
    """Gathers [n, …] of every process: [world, n, …] in each. The gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank()]


def all_reduce_mean(tensors: list[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if world_size() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= world_size()
