"""Losses on the order of each checkout's candidates. Pure functions over jagged tensors.

All have the arguments

    score    [n]      orders the candidates of a checkout
    gain     [n] ≥ 0  value of a candidate at the top (1 for a purchase, or the money spent)
    segment  [n]      checkout of each candidate, rising
    weight   [n]      number of candidates that each row represents (0: unknown outcome)

Checkouts without gain are ignored; a batch without gain has the loss 0. These losses determine the order of
candidates, not their probabilities: a softmax does not change when all scores of a checkout shift. A
pointwise loss in training, and calibration afterwards, determine the probabilities.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.jagged import gather_segments, rank_in_segment, segment_offsets, segment_sum


def pairwise_logistic_loss(score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """Logistic loss of every pair of candidates with different gains (RankNet, Burges et al., ICML 2005).

    The weight of a pair is its difference in gain. The number of a checkout's pairs is at most the number of
    its candidates times the number of those with gain, and few candidates have gain.
    """
    better, worse = preference_pairs(gain, segment, weight)
    pair_weight = weight[better] * weight[worse] * (gain[better] - gain[worse])
    loss = pair_weight * F.softplus(score[worse] - score[better])
    return loss.sum() / pair_weight.sum().clamp_min(1e-6)


def listwise_softmax_loss(score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy between shares of the checkout's gain and a softmax over the checkout's scores.

    Cao et al., ICML 2007 (ListNet, top-one probabilities); Bruch et al., ICTIR 2019, on its bounds. A
    sampled negative represents `weight` candidates in the softmax's sum.
    """
    n_segments = segment_count(segment)
    gain = gain * weight
    highest = score.new_full([n_segments], -torch.inf).scatter_reduce(0, segment, score.detach(), "amax")
    terms = weight * (score - highest[segment]).exp()
    log_sum = segment_totals(terms, segment, n_segments).clamp_min(1e-12).log() + highest
    gains = segment_totals(gain, segment, n_segments)
    share = gain / gains.clamp_min(1e-6)[segment]
    return (share * (log_sum[segment] - score)).sum() / (gains > 0).sum().clamp_min(1)


def lambda_loss(
    score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor, k: int = 6, mu: float = 10.0
) -> Tensor:
    """NDCG-Loss2++ of the LambdaLoss framework (Wang et al., CIKM 2018), for NDCG cut at `k`.

    A pair has a logistic loss if its gains differ and at least one of its candidates is among the first k by
    score. The weight of a pair is the effect of a swap: (ρ + mu · δ) · difference in gain / ideal DCG. ρ is
    the difference of the discounts at the two ranks, and δ is the difference of the discounts at their
    distance and the next rank. A candidate's rank counts the candidates that the rows above it represent.
    """
    better, worse = preference_pairs(gain, segment, weight)
    rank = weighted_rank(score.detach(), segment, weight)
    in_top_k = torch.minimum(rank[better], rank[worse]) < k
    better, worse = better[in_top_k], worse[in_top_k]
    discount = torch.where(rank < k, 1.0 / torch.log2(rank + 2.0), 0.0)  # [n]
    distance = (rank[better] - rank[worse]).abs().clamp_min(1.0)
    rho = (discount[better] - discount[worse]).abs()
    delta = 1.0 / torch.log2(distance + 1.0) - 1.0 / torch.log2(distance + 2.0)
    ideal = ideal_dcg(gain * (weight > 0), segment, k)  # [B]
    relative_gain = (gain[better] - gain[worse]) / ideal.clamp_min(1e-6)[segment[better]]
    pair_weight = (rho + mu * delta) * relative_gain * weight[better] * weight[worse]
    loss = pair_weight * F.softplus(score[worse] - score[better])
    return loss.sum() / (ideal > 0).sum().clamp_min(1)


def preference_pairs(gain: Tensor, segment: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (better, worse) [p] of all pairs of a checkout with different gains and positive weights."""
    better = ((gain > 0) & (weight > 0)).nonzero()[:, 0]
    worse, pair, _ = gather_segments(segment_offsets(segment, segment_count(segment)), segment[better])
    better = better[pair]
    kept = (gain[worse] < gain[better]) & (weight[worse] > 0)
    return better[kept], worse[kept]


def weighted_rank(score: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """The number of candidates that higher-scored rows represent: [n] float32, 0 for the best row."""
    by_score = torch.argsort(score, descending=True, stable=True)
    order = by_score[torch.argsort(segment[by_score], stable=True)]
    above = weight[order].double().cumsum(0) - weight[order]  # [n], includes the checkouts before
    sorted_segment = segment[order]
    rank = torch.empty_like(above)
    rank[order] = above - above[torch.searchsorted(sorted_segment, sorted_segment)]
    return rank.to(score.dtype)


def ideal_dcg(gain: Tensor, segment: Tensor, k: int) -> Tensor:
    """The DCG at k of each checkout's candidates in the order of their gain: [B]."""
    rank = rank_in_segment(segment, gain)
    return segment_totals(
        torch.where(rank < k, gain / torch.log2(rank + 2.0), 0.0), segment, segment_count(segment)
    )


def segment_count(segment: Tensor) -> int:
    """Number of checkouts up to the last one with a candidate."""
    return int(segment[-1]) + 1 if segment.numel() else 0


def segment_totals(values: Tensor, segment: Tensor, n_segments: int) -> Tensor:
    """Sums the values [n] of each segment: [n_segments]."""
    return segment_sum(values.unsqueeze(1), segment, n_segments)[:, 0]
