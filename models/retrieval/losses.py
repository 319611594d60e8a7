"""Losses of retrieval. Pure functions of tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class Positives(NamedTuple):
    """P items that followed the checkouts of all processes."""

    vectors: Tensor  # [P, D]
    item: Tensor  # [P] int64, item rows
    query: Tensor  # [P] int64, the query of each positive, numbered across processes, rising


class UniformNegatives(NamedTuple):
    """M items of all processes, drawn uniformly from N items."""

    vectors: Tensor  # [M, D]
    item: Tensor  # [M] int64, item rows
    n_items: int  # N


class LocalShare(NamedTuple):
    """The part of a batch that belongs to this process."""

    positives: slice = slice(None)  # its rows of Positives
    first_query: int = 0  # number of its first query


SINGLE_PROCESS = LocalShare()


def sampled_softmax_loss(
    query: Tensor,
    positives: Positives,
    negatives: UniformNegatives,
    probability: Tensor,
    temperature: float,
    local: LocalShare = SINGLE_PROCESS,
) -> Tensor:
    """Softmax over the items that negatives are drawn from, estimated from in-batch and uniform negatives.

    The logQ correction (Bengio and Senécal 2008; Yi et al., "Sampling-bias-corrected neural modeling",
    RecSys 2019, section 3) divides each sampled exp(score) by the expected count of its item in the sample.
    Both samplers can draw an item, so the expected count is the sum over both (the balance heuristic; mixed
    negatives as in Yang et al., WWW 2020 Companion, section 3.2):

        E[count of j] = (P - own) · p_j + M / N

    This makes the sampled sum an unbiased estimate of the full one. The query's own positives are no
    negatives for it, and copies of the positive among the negatives (accidental hits) are masked: the
    positive itself represents them.

    Args:
        query: [B, D] query vectors of this process.
        probability: [N+1] probability that a drawn positive is this item.
        temperature: divides the inner products.

    Returns: the sum of this process's losses over P, a scalar. Summed over processes, it is the mean over
    all positives.
    """
    sampled_item = torch.cat([positives.item, negatives.item])  # [P+M]
    local_query = positives.query[local.positives]  # [R], R = P in one process
    sampled_vectors = torch.cat([positives.vectors, negatives.vectors])
    scores = query[local_query - local.first_query] @ sampled_vectors.T / temperature  # [R, P+M]
    own_count = torch.bincount(positives.query)[local_query]  # [R]
    in_batch_count = (positives.item.numel() - own_count).to(scores.dtype).unsqueeze(1)  # [R, 1]
    uniform_count = negatives.item.numel() / negatives.n_items
    expected_count = in_batch_count * probability[sampled_item].to(scores.dtype) + uniform_count  # [R, P+M]
    corrected = scores - expected_count.clamp_min(1e-20).log()
    is_own = torch.zeros_like(scores, dtype=torch.bool)
    is_own[:, : positives.query.numel()] = local_query.unsqueeze(1) == positives.query.unsqueeze(0)
    is_hit = sampled_item.unsqueeze(0) == positives.item[local.positives].unsqueeze(1)
    corrected = corrected.masked_fill(is_own | is_hit, -torch.inf)
    target = scores.diagonal(local.positives.start or 0)  # the positive, uncorrected: always in the sum
    losses = torch.logsumexp(torch.cat([target.unsqueeze(1), corrected], dim=1), dim=1) - target
    return losses.sum() / max(positives.query.numel(), 1)
