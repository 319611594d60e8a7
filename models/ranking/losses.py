"""Pointwise losses of the heads. Pure functions of tensors.

`weight` [n] is the number of pairs that each pair represents: 1 / rate for a sampled negative, 0 for an
unknown outcome, 1 for all by default.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p < 0, stable at both ends (Mächler 2012, "log(1-exp(-|a|))")."""
    log_p = log_p.clamp_max(-1e-7)
    return torch.where(log_p > -0.6931, torch.log(-torch.expm1(log_p)), torch.log1p(-log_p.exp()))


def log_purchase_probability(click: Tensor, conversion: Tensor) -> Tensor:
    """log p(purchase) = log p(click) + log p(purchase | click), from two logits (ESMM, Ma et al. 2018)."""
    return F.logsigmoid(click) + F.logsigmoid(conversion)


def click_and_purchase_probabilities(click: Tensor, conversion: Tensor) -> tuple[Tensor, Tensor]:
    """p(click) and p(purchase) from two logits; p(purchase) ≤ p(click) to the last bit."""
    p = click.sigmoid()
    return p, torch.minimum(log_purchase_probability(click, conversion).exp(), p)


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """Σ weight · loss / Σ weight over [n]; 0 without weight."""
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
    log_p = log_purchase_probability(click, conversion)
    return weighted_mean(-(purchased * log_p + (1 - purchased) * log1mexp(log_p)), weight)


def conversion_loss(
    conversion: Tensor, clicked: Tensor, purchased: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of the conversion logit over clicked candidates only (the loss of a cascade)."""
    loss = F.binary_cross_entropy_with_logits(conversion, purchased, reduction="none")
    return weighted_mean(loss, clicked if weight is None else clicked * weight)


def gamma_deviance(
    log_value: Tensor, spent: Tensor, purchased: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Half the mean gamma deviance of spend over purchased candidates, up to a constant; 0 without any.

    log_value [n] is log E[spend | purchase], spent [n]. A gift (purchased, nothing spent) does not count:
    the gamma distribution excludes zero.
    """
    purchased = purchased * (spent > 0)
    log_ratio = torch.where(purchased > 0, spent.clamp_min(1e-3).log() - log_value, 0.0)
    return weighted_mean(log_ratio.exp() - log_ratio - 1, purchased if weight is None else purchased * weight)
