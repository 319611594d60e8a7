"""Losses of retrieval, and pointwise losses of the heads. Pure functions of tensors.

`weight` [n] says for how many pairs each one stands: 1 / rate for a sampled negative, 0 where the outcome is
not known, 1 for all by default.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sampled_softmax(
    query: Tensor,
    positive: Tensor,
    negative: Tensor,
    positive_id: Tensor,
    negative_id: Tensor,
    owner: Tensor,
    probability: Tensor,
    uniform: int,
    items: int,
    temperature: float,
    rows: slice = slice(None),
    first: int = 0,
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
    mine = owner[rows]  # [R], R = P in one process
    scores = query[mine - first] @ torch.cat([positive, negative]).T / temperature  # [R, P+M]
    own = torch.bincount(owner)[mine]  # [R]
    others = (positive_id.numel() - own).to(scores.dtype).unsqueeze(1)  # [R, 1]
    expected = others * probability[sampled].to(scores.dtype) + uniform / items  # [R, P+M]
    corrected = scores - expected.clamp_min(1e-20).log()
    from_owner = torch.zeros_like(scores, dtype=torch.bool)
    from_owner[:, : owner.numel()] = mine.unsqueeze(1) == owner.unsqueeze(0)
    masked = from_owner | (sampled.unsqueeze(0) == positive_id[rows].unsqueeze(1))
    corrected = corrected.masked_fill(masked, -torch.inf)
    target = scores.diagonal(rows.start or 0)  # the positive itself, uncorrected: always in the sum
    losses = torch.logsumexp(torch.cat([target.unsqueeze(1), corrected], dim=1), dim=1) - target
    return losses.sum() / max(owner.numel(), 1)


def log_one_minus_exp(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, stable at both ends (Mächler 2012, "log(1-exp(-|a|))")."""
    log_p = log_p.clamp_max(-1e-7)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-log_p.exp()))


def log_purchase(click: Tensor, conversion: Tensor) -> Tensor:
    """log p(purchase) = log p(click) + log p(purchase | click), from two logits (ESMM, Ma et al. 2018)."""
    return F.logsigmoid(click) + F.logsigmoid(conversion)


def probabilities(click: Tensor, conversion: Tensor) -> tuple[Tensor, Tensor]:
    """p(click) and p(purchase) from two logits; p(purchase) ≤ p(click) to the last bit."""
    p = click.sigmoid()
    return p, torch.minimum(log_purchase(click, conversion).exp(), p)


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Σ weight · loss / Σ weight over [n]; 0 where nothing has weight."""
    if weight is None:
        return loss.mean()
    return (weight * loss).sum() / weight.sum().clamp_min(1e-6)


def click_loss(click: Tensor, clicked: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of click logits [n] against 0/1 labels [n]."""
    return weighted_mean(F.binary_cross_entropy_with_logits(click, clicked, reduction="none"), weight)


def purchase_loss(
    click: Tensor, conversion: Tensor, purchased: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of the purchase probability over all candidates, clicked or not (entire space)."""
    log_p = log_purchase(click, conversion)
    return weighted_mean(-(purchased * log_p + (1 - purchased) * log_one_minus_exp(log_p)), weight)


def conversion_loss(
    conversion: Tensor, clicked: Tensor, purchased: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of the conversion logit among the clicked only: what a cascade learns from."""
    loss = F.binary_cross_entropy_with_logits(conversion, purchased, reduction="none")
    return weighted_mean(loss, clicked if weight is None else clicked * weight)


def gamma_deviance(
    log_value: Tensor, spent: Tensor, purchased: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Half the mean gamma deviance of spend among the purchased, up to a constant; 0 where none was.

    log_value [n] is log E[spend | purchase], spent [n]. A gift (purchased, nothing spent) does not count:
    the gamma distribution has no zero.
    """
    purchased = purchased * (spent > 0)
    log_ratio = torch.where(purchased > 0, spent.clamp_min(1e-3).log() - log_value, 0.0)
    return weighted_mean(log_ratio.exp() - log_ratio - 1, purchased if weight is None else purchased * weight)
