"""The loss of each task of the ranker."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ranking.escm2 import DoublyRobustRisk, InversePropensityRisk
from models.ranking.listwise_losses import lambda_loss, listwise_softmax_loss, pairwise_logistic_loss
from models.ranking.losses import (
    conditional_loss,
    cross_entropy,
    entire_space_loss,
    gamma_deviance,
    poisson_loss,
)
from models.ranking.tasks import LOSSES, Task, log_probabilities, parent_indices, parent_labels
from training.config_targets import import_object

RANKING_LOSSES = {
    "pairwise": pairwise_logistic_loss,
    "listwise": listwise_softmax_loss,
    "lambda": lambda_loss,
}


class TaskRows(NamedTuple):
    """Inputs of the pointwise loss of a task, for n candidates."""

    logit: Tensor  # [n] given the parent: log-odds of a binary task, log of the mean of an amount or a count
    log_probability: Tensor  # [n] log p(task and its ancestors); of the parent for an amount or a count
    label: Tensor  # [n]
    parent: Tensor  # [n] 1 where the parent happened, by its label; 1 throughout without a parent
    weight: Tensor  # [n] number of pairs that each candidate represents, 0 for an unknown outcome


PointwiseLoss = Callable[[TaskRows], Tensor]  # a scalar; a module may have parameters of its own
COUNTERFACTUAL_RISKS = {"escm2_ips": InversePropensityRisk, "escm2_dr": DoublyRobustRisk}


class EntireSpaceCounterfactualLoss(nn.Module):
    """The entire-space loss of a chained binary task plus `weight` times a counterfactual risk (ESCM²)."""

    def __init__(self, risk: nn.Module, weight: float) -> None:
        super().__init__()
        self.risk, self.weight = risk, weight

    def forward(self, rows: TaskRows) -> Tensor:
        parent_log_probability = rows.log_probability - F.logsigmoid(rows.logit)
        risk = self.risk(rows.logit, parent_log_probability, rows.label, rows.parent, rows.weight)
        return entire_space_loss(rows.log_probability, rows.label, rows.weight) + self.weight * risk


POINTWISE_LOSSES: dict[str, PointwiseLoss] = {
    "cross_entropy": lambda rows: cross_entropy(rows.logit, rows.label, rows.weight),
    "entire_space": lambda rows: entire_space_loss(rows.log_probability, rows.label, rows.weight),
    "conditional": lambda rows: conditional_loss(rows.logit, rows.parent, rows.label, rows.weight),
    "gamma": lambda rows: gamma_deviance(rows.logit, rows.label, rows.parent, rows.weight),
    "poisson": lambda rows: poisson_loss(rows.logit, rows.label, rows.parent, rows.weight),
}


def loss_name(task: Task, entire_space: bool) -> str:
    """The name of a task's loss: the configured loss, or else the default of the task's kind.

    With `entire_space` (`ranker.train.entire_space`), a chained probability learns from all candidates.
    Otherwise it learns only from candidates whose parent happened.
    """
    if task.loss is not None:
        return task.loss
    if task.is_binary and task.given is not None:
        return "entire_space" if entire_space and task.joint else "conditional"
    return LOSSES[task.kind][0]


def pointwise_losses(tasks: Sequence[Task], entire_space: bool) -> list[PointwiseLoss]:
    """The pointwise loss of each task. Raises ConfigError for a dotted path that does not name a function."""
    return [_pointwise_loss(task, loss_name(task, entire_space)) for task in tasks]


def _pointwise_loss(task: Task, name: str) -> PointwiseLoss:
    if name in COUNTERFACTUAL_RISKS:
        return EntireSpaceCounterfactualLoss(COUNTERFACTUAL_RISKS[name](), task.counterfactual_weight)
    return POINTWISE_LOSSES.get(name) or import_object(f"tasks.{task.name}.loss", name)


def task_losses(
    logits: Tensor,
    labels: Tensor,
    weight: Tensor,
    segment: Tensor,
    tasks: Sequence[Task],
    losses: Sequence[PointwiseLoss],
    loss_weights: Mapping[str, float],
) -> dict[str, Tensor]:
    """Returns the loss of each task, a scalar each.

    Args:
        logits, labels: [ΣC, T].
        weight: [ΣC, T], the number of pairs that a candidate represents for each task.
        segment: [ΣC], the checkout of each candidate.
        losses: `pointwise_losses`.
        loss_weights: `ranker.train.loss`. A ranking loss counts for every task with the weight `ranking`. It
            compares the order by the task's expectation, p(parent) · E[amount | parent], with its labels as
            gains. An amount's ranking loss counts for its parent, whose probability it trains most.
    """
    parents = parent_indices(tasks)
    logs = log_probabilities(logits, parents, [task.is_binary for task in tasks])
    parent_label = parent_labels(labels, tasks)
    totals: dict[str, Tensor] = {}
    for t, task in enumerate(tasks):
        task_rows = TaskRows(logits[:, t], logs[t], labels[:, t], parent_label[t], weight[:, t])
        pointwise = losses[t](task_rows)
        totals[task.name] = loss_weights["pointwise"] * pointwise if task.is_binary else pointwise
    for name, ranking_loss in RANKING_LOSSES.items():
        for t, task in enumerate(tasks):
            if (ranking_weight := loss_weights[name] * task.ranking) > 0:
                score = logs[t] if task.is_binary else logs[t] + logits[:, t]
                loss = ranking_loss(score, labels[:, t], segment, weight[:, t])
                owner = task.name if task.is_binary or task.given is None else task.given
                totals[owner] = totals[owner] + ranking_weight * loss
    return totals


def loss_counts(labels: Tensor, weight: Tensor, tasks: Sequence[Task], entire_space: bool) -> Tensor:
    """The number [T] of pairs in the mean of each task's pointwise loss. `labels` and `weight` are [n, T]."""
    counts = []
    for t, (task, parent) in enumerate(zip(tasks, parent_labels(labels, tasks), strict=True)):
        name, pairs = loss_name(task, entire_space), weight[:, t]
        if name in ("cross_entropy", "entire_space", *COUNTERFACTUAL_RISKS):
            counts.append(pairs.sum())
        elif name == "gamma":
            counts.append((pairs * parent * (labels[:, t] > 0)).sum())
        else:
            counts.append((pairs * parent).sum())
    return torch.stack(counts)
