"""Losses that judge the order of each checkout's candidates. Pure functions over jagged tensors.

All take `score` [n], whose order inside a checkout is judged; `gain` [n] ≥ 0, what it is worth to have an
item on top (1 for a purchase, or the money spent); `segment` [n], the checkout of each candidate, rising; and
`weight` [n], for how many candidates each one stands (0: its outcome is not known). Checkouts without gain
do not count; without any gain at all a loss is 0.

They shape the order and not the level: a softmax does not change when all scores of a checkout shift. What
keeps probabilities right is a pointwise loss beside them, and the calibration after training.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.jagged import gather_segments, rank_in_segment, segment_offsets, segment_sum


def pairwise_logistic_loss(score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """Logistic loss of every pair in which one candidate gained more (RankNet, Burges et al., ICML 2005).

    A pair counts by its difference in gain. There are as many pairs as candidates of a checkout times those
    of them with a gain, which are few.
    """
    better, worse = preference_pairs(gain, segment, weight)
    counts = weight[better] * weight[worse] * (gain[better] - gain[worse])
    return (counts * F.softplus(score[worse] - score[better])).sum() / counts.sum().clamp_min(1e-6)


def listwise_softmax_loss(score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of the gains, as shares of their checkout's, and a softmax over the checkout's scores.

    Cao et al., ICML 2007 (ListNet, top-one probabilities); Bruch et al., ICTIR 2019, on what it bounds. A
    sampled negative stands for `weight` candidates in the softmax's sum.
    """
    count = segment_count(segment)
    gain = gain * weight
    highest = score.new_full([count], -torch.inf).scatter_reduce(0, segment, score.detach(), "amax")
    terms = weight * (score - highest[segment]).exp()
    log_sum = segment_totals(terms, segment, count).clamp_min(1e-12).log() + highest
    gains = segment_totals(gain, segment, count)
    share = gain / gains.clamp_min(1e-6)[segment]
    return (share * (log_sum[segment] - score)).sum() / (gains > 0).sum().clamp_min(1)


def lambda_loss(
    score: Tensor, gain: Tensor, segment: Tensor, weight: Tensor, k: int = 6, mu: float = 10.0
) -> Tensor:
    """NDCG-Loss2++ of the LambdaLoss framework (Wang et al., CIKM 2018), for NDCG cut at `k`.

    Every pair in which one candidate gained more, and one is among the first k by score, has a logistic loss
    that counts by what a swap would change: ρ, the difference of the two discounts, plus `mu` times δ, that
    of the discounts at the distance of the two ranks; both by the pair's share of the ideal DCG. The rank of
    a candidate is the number of candidates that those above it stand for.
    """
    better, worse = preference_pairs(gain, segment, weight)
    rank = weighted_rank(score.detach(), segment, weight)
    near = torch.minimum(rank[better], rank[worse]) < k
    better, worse = better[near], worse[near]
    discount = torch.where(rank < k, 1.0 / torch.log2(rank + 2.0), 0.0)  # [n]
    apart = (rank[better] - rank[worse]).abs().clamp_min(1.0)
    rho = (discount[better] - discount[worse]).abs()
    delta = 1.0 / torch.log2(apart + 1.0) - 1.0 / torch.log2(apart + 2.0)
    best = ideal_dcg(gain * (weight > 0), segment, k)  # [B]
    worth = (gain[better] - gain[worse]) / best.clamp_min(1e-6)[segment[better]]
    counts = (rho + mu * delta) * worth * weight[better] * weight[worse]
    return (counts * F.softplus(score[worse] - score[better])).sum() / (best > 0).sum().clamp_min(1)


def preference_pairs(gain: Tensor, segment: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (better, worse) [p] of all pairs of one checkout, both of some weight, one of more gain."""
    better = ((gain > 0) & (weight > 0)).nonzero()[:, 0]
    worse, owner, _ = gather_segments(segment_offsets(segment, segment_count(segment)), segment[better])
    better = better[owner]
    kept = (gain[worse] < gain[better]) & (weight[worse] > 0)
    return better[kept], worse[kept]


def weighted_rank(score: Tensor, segment: Tensor, weight: Tensor) -> Tensor:
    """How many candidates those of higher score in the same checkout stand for: [n] float32, 0 first."""
    by_score = torch.argsort(score, descending=True, stable=True)
    order = by_score[torch.argsort(segment[by_score], stable=True)]
    above = weight[order].double().cumsum(0) - weight[order]  # [n], over all checkouts before, too
    ordered = segment[order]
    rank = torch.empty_like(above)
    rank[order] = above - above[torch.searchsorted(ordered, ordered)]
    return rank.to(score.dtype)


def ideal_dcg(gain: Tensor, segment: Tensor, k: int) -> Tensor:
    """The DCG at k of each checkout's candidates in the order of their gain: [B]."""
    rank = rank_in_segment(segment, gain)
    return segment_totals(
        torch.where(rank < k, gain / torch.log2(rank + 2.0), 0.0), segment, segment_count(segment)
    )


def segment_count(segment: Tensor) -> int:
    """B, up to the last checkout that has a candidate."""
    return int(segment[-1]) + 1 if segment.numel() else 0


def segment_totals(values: Tensor, segment: Tensor, count: int) -> Tensor:
    """Sum of the values of each segment: [n] → [count]."""
    return segment_sum(values.unsqueeze(1), segment, count)[:, 0]
