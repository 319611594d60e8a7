"""Scores of the candidate sources."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.ranking.features.blocks import PairInputs


class ScoreCounts(NamedTuple):
    """Block: scores that are sums, before the log."""

    copurchase_score: Tensor
    ease_score: Tensor  # times 50


class ScoreRatios(NamedTuple):
    """Block: scores, relative to the best of the checkout."""

    ease_score_ratio: Tensor
    two_tower_score: Tensor
    two_tower_score_gap: Tensor


def score_features(pairs: PairInputs) -> tuple[ScoreCounts, ScoreRatios]:
    """Scores of the candidates."""
    candidates, n_checkouts = pairs.candidates, pairs.query.ts.numel()
    score, ease_score = candidates.score, candidates.ease_score
    best_score = torch.full([n_checkouts], -2.0, device=score.device)
    best_score = best_score.scatter_reduce(0, pairs.checkout, score, "amax")
    best_ease = torch.full([n_checkouts], 1e-6, device=score.device)
    best_ease = best_ease.scatter_reduce(0, pairs.checkout, ease_score, "amax")
    counts = ScoreCounts(copurchase_score=candidates.copurchase_score, ease_score=50.0 * ease_score)
    return counts, ScoreRatios(
        ease_score_ratio=ease_score / best_ease.index_select(0, pairs.checkout),
        two_tower_score=score,
        two_tower_score_gap=score - best_score.index_select(0, pairs.checkout),
    )
