"""What each task of the ranker minimises."""

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
        logits: [ΣC, 3] click, conversion, log of spend given purchase. segment: [ΣC] the checkout of each.
        mix: weights of the losses, `ranker.train.loss`. The ranking losses belong to conversion, whose task
            is the purchase: they judge the order by p(purchase) with purchases as gains and, by
            `value_share`, the order by expected value with spend as gain.
        entire_space: conversion learns from p(purchase) over all candidates, else from the clicked alone.
    """
    click, conversion, log_value = logits.unbind(1)
    if entire_space:
        bought = purchase_loss(click, conversion, labels.purchase, labels.weight)
    else:
        bought = conversion_loss(conversion, labels.click, labels.purchase, labels.weight)
    bought = loss_weights["pointwise"] * bought
    score = log_purchase_probability(click, conversion)
    orders = [(1 - loss_weights["value_share"], score, labels.purchase)]
    orders += [(loss_weights["value_share"], score + log_value, labels.value)]
    for name, ranking in RANKING_LOSSES.items():
        for share, by, gain in orders:
            if loss_weights[name] * share > 0:
                bought = bought + loss_weights[name] * share * ranking(by, gain, segment, labels.weight)
    return {
        "click": loss_weights["pointwise"] * click_loss(click, labels.click, labels.weight),
        "conversion": bought,
        "value": gamma_deviance(log_value, labels.value, labels.purchase, labels.weight),
    }
