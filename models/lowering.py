"""Turns trained models into serving models: tables in core torch operators, modules in evaluation mode."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.embeddings import EmbeddingTables, Int8EmbeddingTables, quantize_tables
from models.ranking.ranker import CalibratedRanker, Ranker
from models.retrieval.two_tower import QueryTower

INT8_MIN_DIM = 16  # narrower tables stay float32: row-wise int8 would save less than half of them


class FloatTables(nn.Module):
    """Narrow tables in core torch, float32, with the `forward` of `EmbeddingTables`."""

    def __init__(self, tables: EmbeddingTables) -> None:
        super().__init__()
        bags = tables.collection.embedding_bags
        self.tables = [bags[t.name].weight.detach().clone() for t in tables.tables for _ in t.feature_names]

    def forward(self, ids: list[Tensor], lengths: list[Tensor], weights: list[Tensor]) -> Tensor:
        pooled: list[Tensor] = []
        for i, table in enumerate(self.tables):
            offsets = torch.cat([lengths[i].new_zeros(1), lengths[i].cumsum(0)])
            pooled.append(
                F.embedding_bag(
                    ids[i],
                    table,
                    offsets,
                    mode="sum",
                    per_sample_weights=weights[i],
                    include_last_offset=True,
                )
            )
        return torch.cat(pooled, dim=1)


def lower_ranker(ranker: Ranker) -> CalibratedRanker:
    """Returns the serving form of the ranker. The argument does not change."""
    ranker = copy.deepcopy(ranker)
    for name in ("attribute_embeddings", "item_embeddings"):
        tables = getattr(ranker, name)
        if isinstance(tables, EmbeddingTables):
            setattr(ranker, name, lower_tables(tables))
    ranker.position_bias = None  # serving predicts p(click) of a seen item
    return CalibratedRanker(ranker).eval()


def lower_query_tower(tower: QueryTower) -> QueryTower:
    """Returns the serving form of the query tower. The argument does not change."""
    tower = copy.deepcopy(tower)
    if isinstance(tower.attribute_embeddings, EmbeddingTables):
        tower.attribute_embeddings = lower_tables(tower.attribute_embeddings)
    return tower.eval()


def lower_tables(tables: EmbeddingTables) -> Int8EmbeddingTables | FloatTables:
    """Returns row-wise int8 tables if all are INT8_MIN_DIM wide or more, else float32 tables.

    An int8 row carries 8 bytes of scale and offset, so a row of 4 numbers takes 12 bytes instead of 16. For
    narrow tables this small saving is not worth the quantization error.
    """
    wide = all(table.dim >= INT8_MIN_DIM for table in tables.tables)
    return quantize_tables(tables) if wide else FloatTables(tables)
