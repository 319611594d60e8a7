"""Trained modules → TorchScript files that load in plain torch.

The only file outside `serving` that calls `torch.jit`: TorchScript is deprecated in torch and unsupported
from Python 3.14 on, so what will have to change then is here.
"""

import copy
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from models.candidates import CandidateSources
from models.embeddings import EmbeddingTables, lower
from models.ranker import Ranker, ScoringRanker
from models.two_tower import QueryTower


class Pipeline(NamedTuple):
    """What answers a request, in order: query vector, candidates, scores."""

    query_tower: nn.Module
    candidates: nn.Module
    ranker: nn.Module


def lowered(tower: QueryTower, sources: CandidateSources, ranker: Ranker) -> Pipeline:
    """The eager modules as they serve: int8 tables in core torch operators, evaluation mode.

    The arguments stay as they are; a tower whose tables are int8 already is taken as it is.
    """
    tower, ranker = copy.deepcopy(tower), copy.deepcopy(ranker)
    for module, name in ((tower, "attributes"), (ranker, "attributes"), (ranker, "items")):
        tables = getattr(module, name)
        if isinstance(tables, EmbeddingTables):
            setattr(module, name, lower(tables))
    return Pipeline(tower.eval(), sources.eval(), ScoringRanker(ranker).eval())


def save(pipeline: Pipeline, folder: Path) -> None:
    """Write `query_tower.ts`, `candidates.ts` and `ranker.ts`, frozen: weights become constants of the graph.

    Raises RuntimeError from TorchScript, with the line, for a module that it cannot compile.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        for name, module in pipeline._asdict().items():
            frozen = torch.jit.freeze(torch.jit.script(module))
            torch.jit.save(frozen, str(folder / f"{name}.ts"))
