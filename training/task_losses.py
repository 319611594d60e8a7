"""The loss of each task of the ranker."""

from collections.abc import Mapping

from torch import Tensor

from models.ranking.listwise_losses import lambda_loss, listwise_softmax_loss, pairwise_logistic_loss
from models.ranking.losses import (
    click_loss,
    conversion_loss,
    gamma_deviance,
    log_purchase_probability,
    purchase_loss,
)
from training.labels import Labels

RANKING_LOSSES = {
    "pairwise": pairwise_logistic_loss,
    "listwise": listwise_softmax_loss,
    "lambda": lambda_loss,
}


def task_losses(
    logits: Tensor, labels: Labels, segment: Tensor, loss_weights: Mapping[str, float], entire_space: bool
) -> dict[str, Tensor]:
    """The loss of each task (models.ranking.multitask.layers.TASKS), a scalar each.

    Args:
        logits: [ΣC, 3] click, conversion, log of spend given purchase.
        segment: [ΣC] the checkout of each candidate.
        loss_weights: `ranker.train.loss`. The ranking losses belong to conversion, whose task is the
            purchase: they compare the order by p(purchase) with purchases as gains and, with weight
            `value_share`, the order by expected value with spend as gains.
        entire_space: conversion learns from p(purchase) over all candidates, else from clicked ones only.
    """
    click, conversion, log_value = logits.unbind(1)
    if entire_space:
        pointwise = purchase_loss(click, conversion, labels.purchase, labels.weight)
    else:
        pointwise = conversion_loss(conversion, labels.click, labels.purchase, labels.weight)
    conversion_total = loss_weights["pointwise"] * pointwise
    log_purchase = log_purchase_probability(click, conversion)
    objectives = [
        (1 - loss_weights["value_share"], log_purchase, labels.purchase),
        (loss_weights["value_share"], log_purchase + log_value, labels.value),
    ]
    for name, ranking_loss in RANKING_LOSSES.items():
        for share, score, gain in objectives:
            weight = loss_weights[name] * share
            if weight > 0:
                conversion_total = conversion_total + weight * ranking_loss(
                    score, gain, segment, labels.weight
                )
    return {
        "click": loss_weights["pointwise"] * click_loss(click, labels.click, labels.weight),
        "conversion": conversion_total,
        "value": gamma_deviance(log_value, labels.value, labels.purchase, labels.weight),
    }
