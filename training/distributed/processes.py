"""The processes of a run: one, or those that `torchrun` started.

    torchrun --nproc-per-node 2 train.py trainer=distributed

Every process runs the same stages. What must happen once (preparing, gathering candidates, files) the first
one does, and the others wait for it; training they do together (training/distributed/sharding.py).
"""

import gc
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from omegaconf import DictConfig
from torch import Tensor

from training.config import ConfigError

T = TypeVar("T")
RANK_ZERO_TIMEOUT = timedelta(
    days=7
)  # for what the first process does alone; if it dies, torchrun ends the others


def init_processes(cfg: DictConfig) -> None:
    """Meet the other processes, if there are any.

    Raises ConfigError for processes without a trainer for them, and for a GPU that is not there.
    """
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu: torch sees no GPU here. Use trainer=cpu")
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started == 1:
        init_single_process_group(backend(cfg))
        return
    if not cfg.trainer.processes:
        raise ConfigError(f"torchrun started {started} processes: add trainer=distributed or trainer=gpu")
    smallest = min(cfg.retrieval.train.batch_size, cfg.ranker.train.batch_size)
    if started > smallest:
        raise ConfigError(f"{started} processes share batches of {smallest}: raise batch_size or start fewer")
    if cfg.trainer.accelerator == "gpu":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(f"torchrun starts more processes than the {there} GPUs of this machine")
        torch.cuda.set_device(local)
    dist.init_process_group(backend(cfg), timeout=timedelta(minutes=cfg.trainer.timeout_minutes))


def init_single_process_group(backend: str) -> None:
    """A group of this process alone. It needs no port, which another run on the machine might want."""
    if not dist.is_initialized():
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def shutdown() -> None:
    """Part from the others: what follows is done by one process.

    Sharded models are garbage by now, but in cycles, and hold the group. Its threads would live on and want
    Python after its end, which aborts the process; once collected they are joined here.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def backend(cfg: DictConfig) -> str:
    """Of the collectives: gloo, and on GPUs NCCL beside it."""
    return "cpu:gloo,cuda:nccl" if cfg.trainer.accelerator == "gpu" else "gloo"


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_rank_zero(work: Callable[[], T]) -> T:
    """What `work` returns in the first process, for all of them; it must be picklable."""
    if world_size() == 1:
        return work()
    group = dist.new_group(backend="gloo", timeout=RANK_ZERO_TIMEOUT)
    result: list[Any] = [work() if rank() == 0 else None]
    dist.broadcast_object_list(result, src=0, group=group)
    dist.destroy_process_group(group)
    return result[0]


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, …] of all processes, in the order of ranks; n may differ. Gradients flow back."""
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([rows.shape[0]], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = torch.cat([rows, rows.new_zeros([max(sizes) - rows.shape[0], *rows.shape[1:]])])
    parts = AllGather.apply(padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


class AllGather(torch.autograd.Function):
    """[n, …] of every process → [world, n, …] in each; a gradient is what all of them add up to."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(world_size())]
        dist.all_gather(parts, mine.contiguous())
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
