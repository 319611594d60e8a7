"""Embedding tables with one interface: TorchRec for training, row-wise int8 in core torch for export.

Both modules pool each feature's ids of a row into one vector and concatenate the features:

    ids     = [[3, 5, 1], [2, 2, 7, 0]]       one flat tensor per feature
    lengths = [[1, 1, 1], [0, 1, 3]]          ids per row and feature
    output  = [3 rows, dim of feature 0 + dim of feature 1]

Several features may share a table. Row 0 of every table is reserved for unknown ids, because fbgemm silently
maps ids outside the table to row 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.modules.embedding_configs import PoolingType


class EmbeddingTable(NamedTuple):
    """A table of `num_embeddings` rows of `dim` floats, which the named features read."""

    name: str
    num_embeddings: int
    dim: int
    feature_names: list[str]
    std: float | None = None  # of the initial rows; None: dim^-½, so that a row has a length of about 1


class EmbeddingTables(nn.Module):
    """Weighted sums from TorchRec tables, which `DistributedModelParallel` shards and fuses."""

    def __init__(self, tables: list[EmbeddingTable], device: torch.device | None = None) -> None:
        super().__init__()
        self.tables = tables
        self.feature_names = [feature for table in tables for feature in table.feature_names]
        self.output_dim = sum(table.dim * len(table.feature_names) for table in tables)
        self.collection = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=table.name,
                    num_embeddings=table.num_embeddings,
                    embedding_dim=table.dim,
                    feature_names=table.feature_names,
                    pooling=PoolingType.SUM,
                    init_fn=_normal_init(table.std or table.dim**-0.5),
                )
                for table in tables
            ],
            is_weighted=True,
            device=device,
        )

    def forward(self, ids: list[Tensor], lengths: list[Tensor], weights: list[Tensor]) -> Tensor:
        """Returns pooled features [U, output_dim]. The arguments hold one tensor per feature."""
        jagged = KeyedJaggedTensor(
            keys=self.feature_names,
            values=torch.cat(ids),
            weights=torch.cat(weights),
            lengths=torch.cat(lengths).to(torch.int32),
        )
        pooled: Tensor = self.collection(jagged).values()
        return pooled


class Int8EmbeddingTables(nn.Module):
    """Row-wise 8-bit tables in plain torch operators, called like `EmbeddingTables`."""

    def __init__(self, tables: list[EmbeddingTable], weights: dict[str, Tensor]) -> None:
        """`weights` maps a table's name to its float32 rows [rows, dim]."""
        super().__init__()
        self.packed = [pack_int8(weights[table.name]) for table in tables for _ in table.feature_names]
        self.output_dim = sum(table.dim * len(table.feature_names) for table in tables)

    def forward(self, ids: list[Tensor], lengths: list[Tensor], weights: list[Tensor]) -> Tensor:
        pooled: list[Tensor] = []
        for i, packed in enumerate(self.packed):
            offsets = torch.cat([lengths[i].new_zeros(1), lengths[i].cumsum(0)])
            pooled.append(pool_int8(packed, ids[i], offsets, weights[i]))
        return torch.cat(pooled, dim=1)


def quantize_tables(tables: EmbeddingTables) -> Int8EmbeddingTables:
    """Trained tables in row-wise int8."""
    bags = tables.collection.embedding_bags
    return Int8EmbeddingTables(
        tables.tables, {table.name: bags[table.name].weight.detach() for table in tables.tables}
    )


def pack_int8(weight: Tensor) -> Tensor:
    """Packs float32 [N, D] into uint8 [N, D+8]. A row has D values, then its scale and offset as floats."""
    packed: Tensor = torch.ops.quantized.embedding_bag_byte_prepack(weight.float().contiguous())
    return packed


def unpack_int8(packed: Tensor) -> Tensor:
    """Unpacks uint8 [N, D+8] to float32 [N, D]."""
    weight: Tensor = torch.ops.quantized.embedding_bag_byte_unpack(packed)
    return weight


def pool_int8(packed: Tensor, ids: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Returns weighted sums [U, D] of packed rows, by ids [n], offsets [U+1] and weights [n]."""
    pooled: Tensor = torch.ops.quantized.embedding_bag_byte_rowwise_offsets(
        packed, ids, offsets, False, 0, False, weights, None, True
    )
    return pooled


def gather_rows_int8(packed: Tensor, rows: Tensor) -> Tensor:
    """Unpacks the rows `rows` [n] of uint8 [N, D+8] to float32 [n, D]."""
    return unpack_int8(packed.index_select(0, rows))


def pool_rows(vectors: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Returns weighted sums [B, D] of rows of vectors.

    `vectors` are float32 [N, D] or packed uint8 [N, D+8]; `rows` and `weights` are [n], `offsets` [B+1].
    """
    if vectors.dtype == torch.uint8:
        return pool_int8(vectors, rows, offsets, weights)
    return F.embedding_bag(
        rows,
        vectors,
        offsets,
        mode="sum",
        per_sample_weights=weights.to(vectors.dtype),  # the types differ under autocast
        include_last_offset=True,
    )


def gather_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """Returns rows [n] of vectors as float32 [n, D].

    `vectors` are float32 [N, D] or packed uint8 [N, D+8].
    """
    if vectors.dtype == torch.uint8:
        return gather_rows_int8(vectors, rows)
    return F.embedding(rows, vectors)


def _normal_init(std: float) -> Callable[[Tensor], Tensor | None]:
    def init(weight: Tensor) -> Tensor:
        return nn.init.normal_(weight, std=std)

    return init
