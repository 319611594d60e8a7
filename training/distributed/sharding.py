"""TorchRec under Lightning: sharded tables with fused optimizers, and checkpoints by DCP.

One process and many processes use the same code. Lightning's DDP wrapper cannot hold a
`DistributedModelParallel` (DMP) module and saves only its local shards. The strategy here leaves the wrapping
to DMP and the saving to `torch.distributed.checkpoint` (DCP).
"""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed.checkpoint as dcp
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict_from_keys
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.nn import functional as F
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder, ShardedEmbeddingBagCollection
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan, ShardingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.optim import SGD, Adagrad, Adam, PartialRowWiseAdam, RowWiseAdagrad

from models.embeddings import EmbeddingTables
from training.distributed import processes
from training.errors import ConfigError

TRAINER_STATE = "trainer.pt"
STEP_FILE = "step"  # holds the number of steps, readable without the checkpoint
SHARDINGS = ("table_wise", "column_wise", "row_wise")
TABLE_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "rowwise_adagrad": RowWiseAdagrad,
    "adagrad": Adagrad,
    "sgd": SGD,
    "adam": Adam,
    "rowwise_adam": PartialRowWiseAdam,
}
M = TypeVar("M", bound=nn.Module)
N = TypeVar("N", bound=NamedTuple)


def shard(
    module: nn.Module,
    learning_rate: float,
    device: torch.device,
    sharding: str = "auto",
    initial_weights: dict[str, Tensor] | None = None,
    external_parameters: Iterable[str] = (),
    table_optimizer: str = "rowwise_adagrad",
) -> DistributedModelParallel:
    """Fuse an optimizer into every table of `module`, shard the tables, replicate the other parameters.

    Args:
        sharding: auto (TorchRec's planner decides), table_wise, column_wise or row_wise. A table that is too
            narrow for column_wise is not cut.
        initial_weights: whole tensors by name. Without them sharded tables are initialised again.
        external_parameters: names of parameters that are used outside of the module's forward. The caller
            averages their gradients over the processes.
        table_optimizer: a name of TABLE_OPTIMIZERS.

    Raises ConfigError for any other value of `sharding`.
    """
    if sharding not in ("auto", *SHARDINGS):
        raise ConfigError(f"trainer.sharding={sharding}: expected auto, {', '.join(SHARDINGS)}")
    for part in module.modules():
        if isinstance(part, EmbeddingBagCollection):
            optimizer = TABLE_OPTIMIZERS[table_optimizer]
            apply_optimizer_in_backward(optimizer, part.parameters(), {"lr": learning_rate})
        if isinstance(part, EmbeddingTables) and processes.world_size() > 1:
            PadToMaxRows(part)
    sharders = [EmbeddingBagCollectionSharder()]
    if sharding == "auto":
        plan = _plan_automatic(module, sharders, device)
    else:
        plan = _plan_uniform(module, sharders[0], device, sharding)
    # Not as a static graph: DDP learns from the first backward pass which gradients to average, and the
    # gradient of a single task (training/health.py) would be that pass. Calibration is not trained.
    wrapper = DefaultDataParallelWrapper(
        static_graph=False, find_unused_parameters=True, params_to_ignore=[*external_parameters]
    )
    model = DistributedModelParallel(
        module, device=device, plan=plan, sharders=sharders, data_parallel_wrapper=wrapper
    )
    if initial_weights is not None:
        model.load_state_dict(initial_weights)
    return model


class PadToMaxRows:
    """Pads the lookups of tables to the same number of rows in every process.

    Processes look up different numbers of items, and a row-wise table scatters its sums in equal parts. The
    added rows are empty, and are cut off after the lookup.
    """

    def __init__(self, tables: EmbeddingTables) -> None:
        self.local_rows = 0
        tables.register_forward_pre_hook(self.pad)
        tables.register_forward_hook(self.unpad)

    def pad(self, tables: nn.Module, inputs: Any) -> Any:
        ids, lengths, weights = inputs
        max_rows = torch.tensor(lengths[0].numel(), device=lengths[0].device)
        self.local_rows = int(max_rows)
        torch.distributed.all_reduce(max_rows, torch.distributed.ReduceOp.MAX)
        return ids, [F.pad(length, (0, int(max_rows) - self.local_rows)) for length in lengths], weights

    def unpad(self, tables: nn.Module, inputs: Any, pooled: Tensor) -> Tensor:
        return pooled[: self.local_rows]


def _plan_automatic(module: nn.Module, sharders: list[Any], device: torch.device) -> ShardingPlan:
    """The plan of TorchRec's planner. Raises ConfigError where the tables do not fit."""
    world = torch.distributed.get_world_size()
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    topology = Topology(
        world_size=world,
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        compute_device=device.type,
        hbm_cap=memory,
    )
    planner = EmbeddingShardingPlanner(topology=topology, constraints=sharding_constraints(module))
    group = torch.distributed.group.WORLD
    try:
        if world > 1:
            return planner.collective_plan(module, sharders, group)
        return planner.plan(module, sharders)
    except PlannerError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the embedding tables do not fit {world} processes ({reason}): start more, or use hashed ids "
            "(retrieval.model.item.id_rows)"
        ) from error


def _plan_uniform(module: nn.Module, sharder: Any, device: torch.device, sharding: str) -> ShardingPlan:
    """A plan that shards every table alike. TorchRec's planner does not offer row-wise sharding on CPUs."""
    world = torch.distributed.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    plan: dict[str, Any] = {}
    for name, part in module.named_modules():
        if isinstance(part, EmbeddingBagCollection):
            shardings = {
                config.name: _table_sharding(sharding, config.embedding_dim, k % world, world)
                for k, config in enumerate(part.embedding_bag_configs())
            }
            plan[name] = construct_module_sharding_plan(part, shardings, sharder, local, world, device.type)
    return ShardingPlan(plan)


def _table_sharding(sharding: str, dim: int, rank: int, world: int) -> Any:
    if sharding == "row_wise":
        return row_wise()
    if sharding == "column_wise" and dim % (4 * world) == 0:  # kernels need a multiple of four columns
        return column_wise(ranks=list(range(world)))
    return table_wise(rank=rank)


def to_device(tensors: N, device: torch.device) -> N:
    """A named tuple of tensors on another device."""
    return type(tensors)(*(tensor.to(device) for tensor in tensors))


def sharding_constraints(module: nn.Module) -> dict[str, ParameterConstraints]:
    """Constraints by which every table is sharded and fused: data-parallel tables have no fused optimizer."""
    kinds = [ShardingType.TABLE_WISE.value, ShardingType.COLUMN_WISE.value, ShardingType.ROW_WISE.value]
    fused = [EmbeddingComputeKernel.FUSED.value]
    tables = [part for part in module.modules() if isinstance(part, EmbeddingBagCollection)]
    names = [config.name for part in tables for config in part.embedding_bag_configs()]
    return {name: ParameterConstraints(sharding_types=kinds, compute_kernels=fused) for name in names}


def dense_parameters(model: DistributedModelParallel) -> list[nn.Parameter]:
    """The parameters of the ordinary optimizer: all except the tables, which have a fused optimizer.

    The list is the same in every process, because a table of another process has an empty parameter.
    """
    tables = {
        id(parameter)
        for part in model.modules()
        if isinstance(part, ShardedEmbeddingBagCollection)
        for parameter in part.parameters()
    }
    return [parameter for parameter in model.parameters() if id(parameter) not in tables]


class ShardedStrategy(DDPStrategy):
    """A Lightning strategy: DDP for processes and collectives, DMP for wrapping, DCP for checkpoints."""

    def configure_ddp(self) -> None:
        """Return the model unwrapped, because `configure_model` of the Lightning module has built a DMP."""

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write a folder: tables and weights by DCP from every rank, the trainer's state by rank 0.

        The folder gets its final name when it is complete, so a process that dies leaves the older checkpoint
        intact.
        """
        path, partial = Path(filepath), Path(f"{filepath}.partial")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.barrier()
        checkpoint = dict(checkpoint)
        dcp.save(_sharded_state(self.lightning_module), checkpoint_id=partial)
        checkpoint.pop("state_dict")
        if self.is_global_zero:
            torch.save(checkpoint, partial / TRAINER_STATE)
            (partial / STEP_FILE).write_text(str(checkpoint["global_step"]))
            _replace_folder(partial, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read the trainer's state. `load_model_state_dict` reads model and table optimizer in place."""
        path = Path(checkpoint_path)
        checkpoint = torch.load(path / TRAINER_STATE, weights_only=False)
        return checkpoint | {"state_dict": {"path": path}}

    def load_model_state_dict(self, checkpoint: Any, strict: bool = True) -> None:
        path = checkpoint["state_dict"]["path"]
        state = _sharded_state(self.lightning_module)
        resized = _pop_resized_tensors(state, path)
        dcp.load(state, checkpoint_id=path)
        for entry in resized:
            state["tables"]["state"][entry.table][entry.name] = _reshard_tensor(entry, state, path)
        module: Any = self.lightning_module
        model: DistributedModelParallel = module.model
        model.load_state_dict(state["model"])
        model.fused_optimizer.load_state_dict(state["tables"])

    def remove_checkpoint(self, filepath: Any) -> None:
        if self.is_global_zero:
            shutil.rmtree(filepath, ignore_errors=True)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Loads the full tensors of a checkpoint, by name. Needs no process group."""
    if not (path / ".metadata").is_file():
        raise FileNotFoundError(f"{path} is not a checkpoint (no .metadata). Train first: python train.py")
    return _load_state_dict_from_keys({"model"}, checkpoint_id=path)["model"]


def build_and_load(build: Callable[[], M], path: Path) -> M:
    """The plain module on the CPU with a checkpoint's weights, in evaluation mode."""
    module = build()
    module.load_state_dict(load_weights(path))
    return module.eval()


def _sharded_state(module: Any) -> dict[str, Any]:
    model: DistributedModelParallel = module.model
    return {"model": model.state_dict(), "tables": model.fused_optimizer.state_dict()}


class _ResizedTensor(NamedTuple):
    """A tensor of the table optimizer whose size differs from that in a checkpoint."""

    table: str
    name: str
    tensor: Any


def _pop_resized_tensors(state: dict[str, Any], path: Path) -> list[_ResizedTensor]:
    """Remove from `state` the tensors whose size differs in the checkpoint.

    Row-wise Adagrad keeps one number per row. For a table that is cut into columns it keeps one number per
    row and piece.
    """
    saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    resized = []
    for table, tensors in state["tables"]["state"].items():
        for name, tensor in tensors.items():
            metadata = saved[f"tables.state.{table}.{name}"]
            if getattr(metadata, "size", tensor.size()) != tensor.size():
                resized.append(_ResizedTensor(table, name, tensor))
    for entry in resized:
        del state["tables"]["state"][entry.table][entry.name]
    return resized


def _reshard_tensor(entry: _ResizedTensor, state: dict[str, Any], path: Path) -> Any:
    """Reshard a tensor: every current piece of a row gets the mean over the saved pieces of this row."""
    key = f"tables.state.{entry.table}.{entry.name}"
    saved: Any = _load_state_dict_from_keys({key}, checkpoint_id=path)
    for part in ("tables", "state", entry.table, entry.name):
        saved = saved[part]
    rows = state["model"][entry.table].size(0)
    mean = saved.view(-1, rows).mean(dim=0)
    for piece in entry.tensor.local_shards():
        start = piece.metadata.shard_offsets[0] % rows  # in the rows of the table
        piece.tensor.copy_(mean[start : start + piece.tensor.numel()])
    return entry.tensor


def _replace_folder(source: Path, target: Path) -> None:
    """Replace folder `target` by `source`. Two steps are needed, because folders cannot be swapped in one."""
    old = target.with_name(f"{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)
