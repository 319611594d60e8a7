"""Scores of the candidate sources."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.ranking.features.blocks import PairInputs
from models.ranking.features.selection import FeatureColumn

BLOCK = "scores"


class TowerScores(NamedTuple):
    """Block: the two-tower score."""

    two_tower_score: Tensor
    two_tower_score_gap: Tensor  # relative to the best score of the checkout


def list_score_columns(sources: Sequence[str]) -> list[FeatureColumn]:
    """The features of `list_score_features`: the log of a source's score."""
    return [FeatureColumn(BLOCK, f"{source}_score") for source in sources]


def list_ratio_columns(sources: Sequence[str]) -> list[FeatureColumn]:
    """The features of `list_ratio_features`: a source's score divided by its best score of the checkout."""
    return [FeatureColumn(BLOCK, f"{source}_score_ratio") for source in sources]


def list_score_features(pairs: PairInputs) -> Tensor:
    """Returns log(1 + score) of the K sources with lists: [K, ΣC]."""
    return torch.log1p(pairs.candidates.list_scores.t())


def list_ratio_features(pairs: PairInputs) -> Tensor:
    """Returns the scores of the K sources with lists, divided by the best score of the checkout: [K, ΣC]."""
    scores = pairs.candidates.list_scores  # [ΣC, K]
    best = torch.full([pairs.query.ts.numel(), scores.shape[1]], 1e-6, device=scores.device)
    checkout = pairs.checkout.unsqueeze(1).expand_as(scores)
    best = best.scatter_reduce(0, checkout, scores, "amax")
    return (scores / best.index_select(0, pairs.checkout)).t()


def tower_score_features(pairs: PairInputs) -> TowerScores:
    """The two-tower score of the candidates."""
    score = pairs.candidates.score
    best = torch.full([pairs.query.ts.numel()], -2.0, device=score.device)
    best = best.scatter_reduce(0, pairs.checkout, score, "amax")
    return TowerScores(
        two_tower_score=score, two_tower_score_gap=score - best.index_select(0, pairs.checkout)
    )
