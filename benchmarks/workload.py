"""The workload of the training benchmark: an MMoE, and rows of 20 categorical features with two labels.

    features   2 vocabularies of 1,000,000 ids, 5 of 100,000 and 13 of 1,000; one id per feature and row
    model      embeddings of dimension 16; MMoE with 8 experts [256, 128] and two heads [64]
    data       batches of 4,096 rows; labels with rates of 10 % and 2 %

Any library of ranking models can train this workload, so speeds can be compared (benchmarks/training.py).
Sextet's own ranker also computes a query only once for all of its candidates. This workload has one row per
query, so it does not measure that gain.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from models.ranking.multitask.layers import ParallelLinear
from training.distributed.sharding import dense_parameters, shard

VOCABULARIES = [1_000_000] * 2 + [100_000] * 5 + [1_000] * 13
LABEL_RATES = [0.1, 0.02]  # share of positive rows
FEATURES = [f"f{i}" for i in range(len(VOCABULARIES))]
LABELS = ["click", "purchase"]
DIM, EXPERTS, EXPERT_DIMS, TOWER_DIM = 16, 8, (256, 128), 64
BATCH_SIZE = 4_096
ROW_GROUP = 16_384

LabelledBatch = tuple[Tensor, Tensor]  # ids [20, B] int64, labels [B, 2] float32


def write_rows(path: Path, rows: int, seed: int = 0) -> None:
    """Write a Parquet file of random rows, part by part."""
    rng = np.random.default_rng(seed)
    fields = [*((name, pa.int32()) for name in FEATURES), *((name, pa.int8()) for name in LABELS)]
    with pq.ParquetWriter(path, pa.schema(fields), compression="zstd", write_page_checksum=True) as writer:
        for start in range(0, rows, 32 * ROW_GROUP):
            n = min(32 * ROW_GROUP, rows - start)
            columns = [rng.integers(0, size, n, dtype=np.int32) for size in VOCABULARIES]
            columns += [(rng.random(n) < rate).astype(np.int8) for rate in LABEL_RATES]
            writer.write_table(pa.table(columns, names=[*FEATURES, *LABELS]), row_group_size=ROW_GROUP)


def decode(table: pa.Table) -> LabelledBatch:
    """A table of rows as a batch."""
    ids = np.empty([len(FEATURES), len(table)], np.int64)
    labels = np.empty([len(table), len(LABELS)], np.float32)
    for i, name in enumerate(FEATURES):
        ids[i] = table[name].to_numpy()
    for i, name in enumerate(LABELS):
        labels[:, i] = table[name].to_numpy()
    return torch.from_numpy(ids), torch.from_numpy(labels)


class WorkloadMMoE(nn.Module):
    """Embedding tables, experts, a gate and a tower per label."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(name=name, num_embeddings=size, embedding_dim=DIM, feature_names=[name])
                for name, size in zip(FEATURES, VOCABULARIES, strict=True)
            ]
        )
        inputs = DIM * len(FEATURES)
        self.expert_inputs = nn.ModuleList(nn.Linear(inputs, EXPERT_DIMS[0]) for _ in range(EXPERTS))
        self.expert_outputs = ParallelLinear(EXPERTS, *EXPERT_DIMS)
        self.gate = nn.Linear(inputs, EXPERTS * len(LABELS))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(EXPERT_DIMS[1], TOWER_DIM), nn.ReLU(), nn.Linear(TOWER_DIM, 1))
            for _ in LABELS
        )

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits [B, 2] for ids [20, B]."""
        lengths = torch.ones(ids.numel(), dtype=torch.int32)
        x = self.tables(KeyedJaggedTensor(FEATURES, ids.reshape(-1), lengths=lengths)).values()  # [B, 320]
        experts = [self.expert_outputs(layer(x).relu_(), e) for e, layer in enumerate(self.expert_inputs)]
        gates = self.gate(x).view(-1, len(LABELS), EXPERTS).softmax(2)
        mixed = torch.bmm(gates, torch.stack(experts, dim=1).relu_())  # [B, 2, H2]
        return torch.cat([tower(mixed[:, i]) for i, tower in enumerate(self.towers)], dim=1)


def bce_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy over rows and labels."""
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


class WorkloadTask(pl.LightningModule):
    """Trains WorkloadMMoE with the sharding, optimizers and loop of training/ranker.py."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = None

    def configure_model(self) -> None:
        if self.model is None:
            self.model = shard(WorkloadMMoE(), 0.02, self.trainer.strategy.root_device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(dense_parameters(self.model), lr=1e-3, fused=True)

    def training_step(self, batch: LabelledBatch, index: int) -> Tensor:
        ids, labels = batch
        return bce_loss(self.model(ids), labels)
