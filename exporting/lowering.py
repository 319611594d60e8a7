"""Trained modules → TorchScript files that load in plain torch.

The only file outside `serving` that calls `torch.jit`: TorchScript is deprecated in torch and unsupported
from Python 3.14 on, so what will have to change then is here.
"""

import copy
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.candidates.sources import CandidateSources
from models.embeddings import EmbeddingTables, Int8EmbeddingTables, quantize_tables
from models.ranking.ranker import CalibratedRanker, Ranker
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, Query

INT8_MIN_DIM = 16  # width of a table from which row-wise int8 saves half of it


class ServingModules(NamedTuple):
    """What answers a request, in order: query vector, candidates, scores."""

    query_tower: nn.Module
    candidates: nn.Module
    ranker: nn.Module


class FloatTables(nn.Module):
    """Narrow tables in core torch, float32: same call as `EmbeddingTables`."""

    def __init__(self, tables: EmbeddingTables) -> None:
        super().__init__()
        bags = tables.collection.embedding_bags
        self.tables = [bags[t.name].weight.detach().clone() for t in tables.tables for _ in t.feature_names]

    def forward(self, ids: list[Tensor], lengths: list[Tensor], weights: list[Tensor]) -> Tensor:
        pooled: list[Tensor] = []
        for i, table in enumerate(self.tables):
            offsets = torch.cat([lengths[i].new_zeros(1), lengths[i].cumsum(0)])
            bag = F.embedding_bag(
                ids[i], table, offsets, mode="sum", per_sample_weights=weights[i], include_last_offset=True
            )
            pooled.append(bag)
        return torch.cat(pooled, dim=1)


class TupleCandidateSources(nn.Module):
    """Candidates as a plain tuple: for a NamedTuple TorchScript makes a new Python class at every call."""

    def __init__(self, sources: CandidateSources) -> None:
        super().__init__()
        self.sources = sources

    def forward(
        self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The fields of models.schema.Candidates, in their order."""
        found = self.sources(query, query_vector, ann, catalog)
        return found.offsets, found.item, found.source, found.score, found.affinity, found.taste


def lower_modules(tower: QueryTower, sources: CandidateSources, ranker: Ranker) -> ServingModules:
    """The eager modules as they serve: tables in core torch operators, evaluation mode.

    The arguments stay as they are; tables that are in core torch already are taken as they are.
    """
    ranker = copy.deepcopy(ranker)
    for name in ("attributes", "items"):
        tables = getattr(ranker, name)
        if isinstance(tables, EmbeddingTables):
            setattr(ranker, name, lower_tables(tables))
    ranker.position_bias = None  # what is served is seen
    return ServingModules(
        lower_query_tower(tower), TupleCandidateSources(sources).eval(), CalibratedRanker(ranker).eval()
    )


def lower_query_tower(tower: QueryTower) -> QueryTower:
    """The query tower of `lowered`, alone."""
    tower = copy.deepcopy(tower)
    if isinstance(tower.attribute_embeddings, EmbeddingTables):
        tower.attribute_embeddings = lower_tables(tower.attribute_embeddings)
    return tower.eval()


def lower_tables(tables: EmbeddingTables) -> Int8EmbeddingTables | FloatTables:
    """Row-wise int8 where all tables are INT8_FROM wide or more, else float32.

    A row-wise int8 row carries 8 bytes of scale and offset, so a row of 4 takes 12 bytes instead of 16; that
    is not worth the error, which is the largest in what is narrow and sharply trained.
    """
    wide = all(table.dim >= INT8_MIN_DIM for table in tables.tables)
    return quantize_tables(tables) if wide else FloatTables(tables)


def save_torchscript(pipeline: ServingModules, folder: Path) -> None:
    """Write `query_tower.ts`, `candidates.ts` and `ranker.ts`, as `scripted` makes them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        for name, module in pipeline._asdict().items():
            torch.jit.save(to_torchscript(module), str(folder / f"{name}.ts"))


def to_torchscript(module: nn.Module) -> torch.jit.ScriptModule:
    """TorchScript of a lowered module, frozen: weights become constants of the graph.

    Raises RuntimeError from TorchScript, with the line, for a module that it cannot compile.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        return torch.jit.freeze(torch.jit.script(module))
