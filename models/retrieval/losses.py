"""Losses of retrieval. Pure functions of tensors."""

import torch
from torch import Tensor


def sampled_softmax_loss(
    query: Tensor,
    positive: Tensor,
    negative: Tensor,
    positive_id: Tensor,
    negative_id: Tensor,
    owner: Tensor,
    probability: Tensor,
    n_uniform: int,
    n_items: int,
    temperature: float,
    local_positives: slice = slice(None),
    first_query: int = 0,
) -> Tensor:
    """Softmax over the catalog, estimated from the batch's other positives and uniform negatives.

    The logQ correction (Bengio and Senécal 2008; Yi et al., "Sampling-bias-corrected neural modeling",
    RecSys 2019, section 3) divides each sampled exp(score) by the number of times its item was expected
    in the sample. An item can come from either sampler, so that number is the sum over both (the balance
    heuristic; mixed negatives as in Yang et al., WWW 2020 Companion, section 3.2):

        E[count of j] = (P - own) · p_j + M / N

    which makes the sampled sum an unbiased estimate of the full one. Copies of the positive among the
    negatives (accidental hits) are masked, because the positive itself stands for them.

    Args:
        query: [B, D] query vectors, in a run of several processes those of this one.
        positive, positive_id: [P, D] vectors and [P] rows of the items that followed, of all processes.
        owner: [P] which query each positive belongs to. Its own draws are no negatives to it.
        negative, negative_id: [M, D] and [M], drawn uniformly from N items.
        probability: [N+1] chance that a drawn positive is this item.
        uniform: M, the number of uniform draws.
        items: N, the number of items that uniform draws come from.
        temperature: divides the inner products.
        rows: which of the positives are of this process. first: the number of its first query.

    Returns: the sum of this process's losses over P, a scalar: the mean over the positives of all.
    """
    sampled = torch.cat([positive_id, negative_id])  # [P+M]
    mine = owner[local_positives]  # [R], R = P in one process
    scores = query[mine - first_query] @ torch.cat([positive, negative]).T / temperature  # [R, P+M]
    own = torch.bincount(owner)[mine]  # [R]
    others = (positive_id.numel() - own).to(scores.dtype).unsqueeze(1)  # [R, 1]
    expected = others * probability[sampled].to(scores.dtype) + n_uniform / n_items  # [R, P+M]
    corrected = scores - expected.clamp_min(1e-20).log()
    from_owner = torch.zeros_like(scores, dtype=torch.bool)
    from_owner[:, : owner.numel()] = mine.unsqueeze(1) == owner.unsqueeze(0)
    masked = from_owner | (sampled.unsqueeze(0) == positive_id[local_positives].unsqueeze(1))
    corrected = corrected.masked_fill(masked, -torch.inf)
    target = scores.diagonal(
        local_positives.start or 0
    )  # the positive itself, uncorrected: always in the sum
    losses = torch.logsumexp(torch.cat([target.unsqueeze(1), corrected], dim=1), dim=1) - target
    return losses.sum() / max(owner.numel(), 1)
