"""TorchRec under Lightning: sharded tables with fused optimizers, and checkpoints by DCP.

One code path from one process to many. Lightning's own DDP wrapper cannot hold a
`DistributedModelParallel` (DMP) module and saves only local shards of it, so the strategy here leaves the
wrapping to DMP and the saving to `torch.distributed.checkpoint`.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import RowWiseAdagrad

TRAINER_STATE = "trainer.pt"
STEP = "step"  # readable without loading anything
M = TypeVar("M", bound=nn.Module)


def shard(module: nn.Module, learning_rate: float, device: torch.device) -> DistributedModelParallel:
    """Fuse row-wise Adagrad into every table of `module`, shard the tables, replicate the rest."""
    for part in module.modules():
        if isinstance(part, EmbeddingBagCollection):
            apply_optimizer_in_backward(RowWiseAdagrad, part.parameters(), {"lr": learning_rate})
    world = torch.distributed.get_world_size()
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world, compute_device=device.type), constraints=_constraints(module)
    )
    sharders = [EmbeddingBagCollectionSharder()]
    group = torch.distributed.group.WORLD
    plan = planner.collective_plan(module, sharders, group) if world > 1 else planner.plan(module, sharders)
    return DistributedModelParallel(module, device=device, plan=plan, sharders=sharders)


def _constraints(module: nn.Module) -> dict[str, ParameterConstraints]:
    """Sharded and fused for every table: data-parallel tables would have no fused optimizer."""
    kinds = [ShardingType.TABLE_WISE.value, ShardingType.COLUMN_WISE.value, ShardingType.ROW_WISE.value]
    fused = [EmbeddingComputeKernel.FUSED.value]
    tables = [part for part in module.modules() if isinstance(part, EmbeddingBagCollection)]
    names = [config.name for part in tables for config in part.embedding_bag_configs()]
    return {name: ParameterConstraints(sharding_types=kinds, compute_kernels=fused) for name in names}


def dense_parameters(model: DistributedModelParallel) -> list[nn.Parameter]:
    """What the ordinary optimizer updates: everything but the tables, whose optimizer is fused."""
    fused = set(model.fused_optimizer.params)
    return [parameter for name, parameter in model.named_parameters() if name not in fused]


class ShardedStrategy(DDPStrategy):
    """DDP's processes and collectives; DMP's wrapping; DCP's checkpoints."""

    def configure_ddp(self) -> None:
        """Nothing to wrap: `configure_model` of the Lightning module built a DMP."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder: tables and weights by DCP from every rank, the rest by rank 0.

        It appears under its name only when complete, so a kill leaves the older checkpoint whole.
        """
        path, partial = Path(filepath), Path(f"{filepath}.partial")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.barrier()
        checkpoint = dict(checkpoint)
        dcp.save(_sharded(self.lightning_module), checkpoint_id=partial)
        checkpoint.pop("state_dict")
        if self.is_global_zero:
            torch.save(checkpoint, partial / TRAINER_STATE)
            (partial / STEP).write_text(str(checkpoint["global_step"]))
            _replace(partial, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The trainer's part; model and table optimizer are read in place by `load_model_state_dict`."""
        path = Path(checkpoint_path)
        checkpoint = torch.load(path / TRAINER_STATE, weights_only=False)
        return checkpoint | {"state_dict": {"path": path}}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        state = _sharded(self.lightning_module)
        dcp.load(state, checkpoint_id=checkpoint["state_dict"]["path"])
        module: Any = self.lightning_module
        model: DistributedModelParallel = module.model
        model.load_state_dict(state["model"])
        model.fused_optimizer.load_state_dict(state["tables"])

    def remove_checkpoint(self, filepath: Any) -> None:
        if self.is_global_zero:
            shutil.rmtree(filepath, ignore_errors=True)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Full tensors of a checkpoint, by name, without a process group: for export and evaluation."""
    if not (path / ".metadata").is_file():
        raise FileNotFoundError(f"{path} is no checkpoint: it has no .metadata. Train first: python train.py")
    return _load_state_dict_from_keys({"model"}, checkpoint_id=path)["model"]


def build_and_load(build: Callable[[], M], path: Path) -> M:
    """The plain module on the CPU with a checkpoint's weights, ready to evaluate or export."""
    module = build()
    module.load_state_dict(load_weights(path))
    return module.eval()


def _sharded(module: Any) -> dict[str, Any]:
    model: DistributedModelParallel = module.model
    return {"model": model.state_dict(), "tables": model.fused_optimizer.state_dict()}


def _replace(source: Path, target: Path) -> None:
    """Put folder `source` in the place of `target`; a folder cannot be replaced in one step."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
