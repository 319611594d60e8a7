"""Calibration of the tasks' logits: fitted on validation after training, exported with the ranker."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.ranking.losses import (
    conditional_loss,
    cross_entropy,
    entire_space_loss,
    gamma_deviance,
    poisson_loss,
)
from models.ranking.position_bias import PositionBias
from models.ranking.tasks import Task, log_probabilities, parent_indices, parent_labels


class TaskCalibration(nn.Module):
    """A linear map per task of its logit: log-odds of a binary task, log of the mean of an amount.

    Platt scaling (Platt 1999) of binary tasks given their parents: the probability of a chain is the product
    and never exceeds the parent's.
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(n_tasks))
        self.shift = nn.Parameter(torch.zeros(n_tasks))

    def forward(self, logits: Tensor) -> Tensor:
        """Raw logits [n, T] to calibrated ones [n, T]."""
        return logits * self.scale + self.shift

    def fit(
        self,
        tasks: Sequence[Task],
        logits: Tensor,
        labels: Tensor,
        position: Tensor | None = None,
        position_bias: PositionBias | None = None,
    ) -> None:
        """Minimise each task's own loss: logits [n, T], labels [n, T]. Amounts and counts keep their scale.

        With the trained `position_bias`, which is not fitted, outcomes observed at a `position` [n] calibrate
        the probabilities of an item that is seen instead of the mean over the positions of the log. A task
        without both outcomes in the sample, or with `calibration: false`, keeps its parameters.
        """
        parents = parent_labels(labels, tasks)
        is_fitted = torch.tensor(
            [_is_fitted(task, labels[:, t], parents[t] > 0) for t, task in enumerate(tasks)]
        )
        scale_mask = is_fitted & torch.tensor([task.is_binary for task in tasks])
        masks = ((self.scale, scale_mask.float()), (self.shift, is_fitted.float()))
        optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            calibrated = self(logits)
            if position_bias is not None and position is not None:
                calibrated = logits_at_position(calibrated, tasks, position_bias, position)
            loss = torch.stack(calibration_losses(calibrated, labels, tasks)).sum()
            torch.autograd.backward(loss)
            for parameter, mask in masks:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            return float(loss.detach())

        optimizer.step(closure)


def calibration_losses(logits: Tensor, labels: Tensor, tasks: Sequence[Task]) -> list[Tensor]:
    """By task the loss of its own parameters; ancestors are constants. logits [n, T], labels [n, T]."""
    parents, parent_label = parent_indices(tasks), parent_labels(labels, tasks)
    logs = log_probabilities(logits.detach(), parents, [task.is_binary for task in tasks])
    losses: list[Tensor] = []
    for t, task in enumerate(tasks):
        logit, label = logits[:, t], labels[:, t]
        if task.kind == "amount":
            losses.append(gamma_deviance(logit, label, parent_label[t]))
        elif task.kind == "count":
            losses.append(poisson_loss(logit, label, parent_label[t]))
        elif parents[t] < 0:
            losses.append(cross_entropy(logit, label))
        elif task.joint:
            losses.append(entire_space_loss(logs[parents[t]] + nn.functional.logsigmoid(logit), label))
        else:
            losses.append(conditional_loss(logit, parent_label[t], label))
    return losses


def logits_at_position(
    logits: Tensor, tasks: Sequence[Task], position_bias: PositionBias, position: Tensor
) -> Tensor:
    """Logits [n, T] of items that are seen → logits [n, T] at positions [n].

    A user examines a position or not, so the bias acts on tasks without parent; the others follow.
    """
    columns = [
        position_bias(logits[:, t], position) if task.is_binary and task.given is None else logits[:, t]
        for t, task in enumerate(tasks)
    ]
    return torch.stack(columns, dim=1)


def _is_fitted(task: Task, label: Tensor, parent: Tensor) -> bool:
    """Whether a sample determines the parameters of a task: its labels [n], parent [n] bool."""
    if not task.calibration:
        return False
    if not task.is_binary:
        return bool((parent & (label > 0)).any())
    fitted_label = label if task.joint else label[parent]
    return bool(fitted_label.any()) and not bool(fitted_label.all())
