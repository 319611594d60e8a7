"""Turns trained modules into TorchScript files that load in plain torch."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from models.candidates.sources import CandidateSources
from models.lowering import lower_query_tower, lower_ranker
from models.ranking.ranker import Ranker
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, Query
from models.torchscript import to_torchscript


class ServingModules(NamedTuple):
    """The modules that answer a request. In order, they compute query vector, candidates and scores."""

    query_tower: nn.Module
    candidates: nn.Module
    ranker: nn.Module


class TupleCandidateSources(nn.Module):
    """Returns candidates as a plain tuple.

    TorchScript would create a class for a NamedTuple at every call.
    """

    def __init__(self, sources: CandidateSources) -> None:
        super().__init__()
        self.sources = sources

    def forward(
        self, query: Query, query_vector: Tensor, ann: Tensor, catalog: Catalog
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The fields of models.schema.Candidates, in their order."""
        candidates = self.sources(query, query_vector, ann, catalog)
        return (
            candidates.offsets,
            candidates.item,
            candidates.source_mask,
            candidates.score,
            candidates.list_scores,
        )


def lower_modules(tower: QueryTower, sources: CandidateSources, ranker: Ranker) -> ServingModules:
    """Turns the eager modules into their serving form: evaluation mode, with tables in core torch operators.

    The arguments do not change. Tables already in core torch are shared.
    """
    return ServingModules(
        lower_query_tower(tower), TupleCandidateSources(sources).eval(), lower_ranker(ranker)
    )


def save_torchscript(modules: ServingModules, folder: Path) -> None:
    """Write `query_tower.ts`, `candidates.ts` and `ranker.ts`, as `to_torchscript` compiles them."""
    for name, module in modules._asdict().items():
        to_torchscript(module).save(str(folder / f"{name}.ts"))
