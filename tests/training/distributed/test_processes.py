"""What several processes compute together is what one computes alone."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from omegaconf import OmegaConf
from torch.nn import functional as F

from models.retrieval.losses import Positives, SampledItems, sampled_softmax_loss
from training.config import ConfigError
from training.distributed import processes

ITEMS, CHECKOUTS, WORLD = 40, 9, 3


def loss_of(weight: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    """The share of process `rank` of `world` of a loss over CHECKOUTS checkouts."""
    g = torch.Generator().manual_seed(0)
    probability = torch.rand(ITEMS + 1, generator=g)
    query, table = torch.randn(CHECKOUTS, 4, generator=g), torch.randn(ITEMS + 1, 4, generator=g)
    positive = torch.randint(0, ITEMS + 1, [CHECKOUTS, 3], generator=g)
    negative = torch.randint(1, ITEMS + 1, [10], generator=g)
    low, high = CHECKOUTS * rank // world, CHECKOUTS * (rank + 1) // world
    drawn = negative[10 * rank // world : 10 * (rank + 1) // world]
    own = positive[low:high]
    is_known = own > 0
    query_number = torch.arange(low, high).unsqueeze(1).expand_as(own)[is_known]
    item = torch.cat([own[is_known], drawn])
    gather = processes.all_gather_rows
    share = sampled_softmax_loss(
        F.normalize(query[low:high] @ weight, dim=1) / 0.3,
        Positives(F.normalize(table[own] @ weight, dim=2), own),
        SampledItems(
            gather(F.normalize(table[item] @ weight, dim=1)),
            gather(item),
            gather(torch.cat([query_number, torch.full_like(drawn, -1)])),
            n_items=ITEMS,
        ),
        probability / probability.sum(),
        torch.arange(low, high),
    )
    return share / int((positive > 0).sum()) * world


def work(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    weight = torch.eye(4, requires_grad=True)
    loss = loss_of(weight, rank, WORLD)
    loss.backward()
    processes.all_reduce_mean([loss.detach(), weight.grad])  # as DDP does with gradients
    rows = processes.all_gather_rows(torch.full([rank, 2], rank))
    first = processes.on_rank_zero(lambda: f"from {rank}")
    torch.save((loss.detach(), weight.grad, rows, first), f"{folder}/{rank}.pt")
    held: dict[str, object] = {"group": dist.group.WORLD}
    held["itself"] = held  # as a sharded model does
    del held
    processes.shutdown()
    for task in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError):  # it ended meanwhile
            assert "gloo_runloop" not in task.read_text(), "a thread of the group outlives it"


def test_in_batch_negatives_are_those_of_all_processes(tmp_path: Path) -> None:
    mp.spawn(work, (str(tmp_path),), nprocs=WORLD)
    weight = torch.eye(4, requires_grad=True)
    loss = loss_of(weight, 0, 1)
    loss.backward()
    for rank in range(WORLD):
        shared, gradient, rows, first = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(shared, loss.detach())
        torch.testing.assert_close(gradient, weight.grad)
        assert rows.tolist() == [[1, 1], [2, 2], [2, 2]], "uneven rows, in the order of ranks"
        assert first == "from 0"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        processes.init_processes(OmegaConf.create({"trainer": {"accelerator": "gpu", "processes": True}}))
