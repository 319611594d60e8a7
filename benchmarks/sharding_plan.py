"""Prints TorchRec's sharding plan of a table with a billion rows. The command needs no GPU.

    python -m benchmarks.sharding_plan

There is a row per number of GPUs (80 GB of memory each, eight to a machine). It has the shards of the tables,
the memory of the fullest GPU, and the planner's estimate of a step's time for lookups and their
communication.
"""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import PlannerError

from benchmarks.commands import run_benchmark
from reporting.tables import text_table
from training.distributed.sharding import sharding_constraints

ROWS, DIM = 1_000_000_000, 64
SMALL_TABLES = [(100_000_000, 32), (1_000_000, 32)]
GPU_COUNTS, BATCH_SIZE = (4, 8, 16, 32, 64), 8192
HBM_BYTES = 80 * 2**30


@dataclass(frozen=True, kw_only=True)
class ShardingPlanOptions:
    """Print TorchRec's sharding plan of a table with a billion rows, by number of GPUs."""


def benchmark(options: ShardingPlanOptions) -> int:
    """Print a row per number of GPUs."""
    print(text_table([plan_sharding(count) for count in GPU_COUNTS]))
    return 0


def plan_sharding(count: int) -> dict[str, Any]:
    """The row for `count` GPUs, each with BATCH_SIZE requests in a step."""
    sizes = [(ROWS, DIM), *SMALL_TABLES]
    module = EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(name=f"t{i}", num_embeddings=rows, embedding_dim=dim, feature_names=[f"f{i}"])
            for i, (rows, dim) in enumerate(sizes)
        ],
    )
    model = torch.nn.ModuleDict({"tables": module})
    topology = Topology(
        world_size=count, local_world_size=min(count, 8), compute_device="cuda", hbm_cap=HBM_BYTES
    )
    planner = EmbeddingShardingPlanner(
        topology=topology, batch_size=BATCH_SIZE, constraints=sharding_constraints(model)
    )
    sharder: Any = EmbeddingBagCollectionSharder({"optimizer": "rowwise_adagrad"})
    try:
        plan = planner.plan(model, [sharder])
    except PlannerError as error:
        return {"gpus": count, "fits": False, "sharding": str(error).strip().splitlines()[0][:60]}
    memory, seconds = [0.0] * count, [0.0] * count
    for option in planner._best_plan or []:
        for shard in option.shards:
            memory[shard.rank] += shard.storage.hbm / 2**30
            seconds[shard.rank] += shard.perf.total / 1e3
    types = {name: sharding.sharding_type for name, sharding in plan.plan["tables"].items()}
    return {
        "gpus": count,
        "fits": True,
        "sharding": ", ".join(types[f"t{i}"] for i in range(len(sizes))),
        "max_hbm_gib": max(memory),
        "step_ms": max(seconds) * 1e3,
    }


if __name__ == "__main__":
    sys.exit(run_benchmark("python -m benchmarks.sharding_plan", benchmark))
