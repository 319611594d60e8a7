"""Losses of retrieval. Pure functions of tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class Positives(NamedTuple):
    """Up to k items that followed each of Q queries."""

    vectors: Tensor  # [Q, k, D]
    item: Tensor  # [Q, k] int64, item rows; 0 for none


class SampledItems(NamedTuple):
    """K items to compare with: positives of all processes' queries (in-batch), and uniform draws from N."""

    vectors: Tensor  # [K, D]
    item: Tensor  # [K] int64, item rows
    group: Tensor  # [K] int64, the group of the query that has this positive; -1 if uniform
    n_items: int  # N
    sales_score: Tensor | None = None  # [Q, K] what sales add to the queries' scores


def sampled_softmax_loss(
    query: Tensor,
    positives: Positives,
    sampled: SampledItems,
    probability: Tensor,
    group: Tensor,
) -> Tensor:
    """Softmax over the items that negatives are drawn from, estimated from in-batch and uniform negatives.

    The logQ correction (Bengio and Senécal 2008; Yi et al., "Sampling-bias-corrected neural modeling",
    RecSys 2019, section 3) divides each sampled exp(score) by the expected count of its item in the sample.
    Both samplers can draw an item, so the expected count is the sum over both (the balance heuristic; mixed
    negatives as in Yang et al., WWW 2020 Companion, section 3.2):

        E[count of j] = (in-batch draws of other groups) · p_j + (uniform draws) / N

    This makes the sampled sum an unbiased estimate of the full one. A query's own positives are never its
    negatives. In-batch draws of the query's group (the orders of one history) are no negatives either,
    because the user buys these items far more often than p_j assumes.

    Args:
        query: [Q, D] query vectors of this process.
        probability: [N+1] probability that an in-batch draw is the item of this row.
        group: [Q] int64, the group of each query, numbered across processes.

    Returns: the sum over this process's positives, a scalar.
    """
    is_own = sampled.group.unsqueeze(0) == group.unsqueeze(1)  # [Q, K]
    in_batch = sampled.group >= 0
    in_batch_count = in_batch.sum() - is_own.sum(1, keepdim=True)  # [Q, 1]
    uniform_count = (~in_batch).sum() / sampled.n_items
    scores = query @ sampled.vectors.T  # [Q, K]
    if sampled.sales_score is not None:
        scores = scores + sampled.sales_score
    expected_count = in_batch_count * probability[sampled.item].to(scores.dtype) + uniform_count
    is_positive = is_own
    for column in positives.item.unbind(1):
        is_positive = is_positive | (sampled.item.unsqueeze(0) == column.unsqueeze(1))
    corrected = scores - expected_count.clamp_min(1e-20).log()
    rest = torch.logsumexp(corrected.masked_fill(is_positive, -torch.inf), dim=1, keepdim=True)  # [Q, 1]
    target = (positives.vectors * query.unsqueeze(1)).sum(2)  # [Q, k]
    is_known = positives.item > 0
    loss = torch.logaddexp(rest.expand_as(target)[is_known], target[is_known]) - target[is_known]
    return loss.sum()
