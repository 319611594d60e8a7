"""Pointwise losses of the tasks. Pure functions of tensors.

`weight` [n] is the number of pairs that each row represents: 1 / rate for a sampled negative, 0 for an
unknown outcome. The default is 1.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, stable at both ends (Mächler 2012, "log(1-exp(-|a|))")."""
    log_p = log_p.clamp_max(-1e-7)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-log_p.exp()))


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """The weighted mean of losses [n]: Σ weight · loss / Σ weight, or 0 without weight."""
    if weight is None:
        return loss.mean()
    return (weight * loss).sum() / weight.sum().clamp_min(1e-6)


def cross_entropy(logit: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of logits [n] against 0/1 labels [n]."""
    return weighted_mean(F.binary_cross_entropy_with_logits(logit, label, reduction="none"), weight)


def entire_space_loss(log_p: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of log probabilities [n] of a chain of tasks, over all candidates.

    Candidates whose parent did not happen count too (ESMM, Ma et al., SIGIR 2018, section 2.2).
    """
    return weighted_mean(-(label * log_p + (1 - label) * log1mexp(log_p)), weight)


def conditional_loss(logit: Tensor, parent: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of logits [n] over candidates where the parent [n] happened (as in a cascade)."""
    loss = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    return weighted_mean(loss, parent if weight is None else parent * weight)


def gamma_deviance(log_mean: Tensor, amount: Tensor, parent: Tensor, weight: Tensor | None = None) -> Tensor:
    """Half the mean gamma deviance of amounts [n], up to a constant. It is 0 without amounts.

    Only amounts whose parent [n] happened count. log_mean [n] is log E[amount | parent]. An amount of 0, as
    of a gift, does not count, because the gamma distribution excludes zero.
    """
    parent = parent * (amount > 0)
    log_ratio = torch.where(parent > 0, amount.clamp_min(1e-3).log() - log_mean, 0.0)
    return weighted_mean(log_ratio.exp() - log_ratio - 1, parent if weight is None else parent * weight)


def poisson_loss(log_mean: Tensor, count: Tensor, parent: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean negative Poisson log-likelihood of counts [n], up to a constant.

    Only rows whose parent [n] happened are read. log_mean [n] is log E[count | parent].
    """
    loss = log_mean.exp() - count * log_mean
    return weighted_mean(loss, parent if weight is None else parent * weight)
