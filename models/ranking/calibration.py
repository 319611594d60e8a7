"""Calibration of the tasks' logits.

It is fitted on validation after training, and exported with the ranker.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor, nn

from models.ranking.losses import (
    conditional_loss,
    cross_entropy,
    entire_space_loss,
    gamma_deviance,
    log1mexp,
    poisson_loss,
)
from models.ranking.position_bias import PositionBias
from models.ranking.tasks import (
    ORGANIC,
    Task,
    TaskOutputs,
    control_indices,
    log_probabilities,
    parent_indices,
    parent_labels,
)

MAX_LEVEL_SHIFT = 3.0  # of a logit, either way, by `level_shifts`
LEVEL_TOLERANCE = 1e-4  # of the logarithm of a sum of outputs


class TaskCalibration(nn.Module):
    """A linear map of each task's logit.

    The logit is the log-odds of a binary task, or the log mean of an amount.

    Binary tasks use Platt scaling (Platt 1999) given their parents. A chained probability is a product and
    never exceeds the parent's probability.
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
        weight: Tensor | None = None,
    ) -> None:
        """Fit each binary task by its own loss, from logits [n, T] and labels [n, T].

        Amounts and counts keep their scale.

        With the trained `position_bias`, which stays unchanged, outcomes observed at a `position` [n]
        calibrate the probabilities of seen items. Without it they calibrate the mean over the positions of
        the log. `weight` [n, T] is the number of pairs that a row represents for each task: 0 for an unknown
        outcome, 1 by default. A task without both outcomes in the sample, or with `calibration: false`, keeps
        its parameters.
        """
        weight = torch.ones_like(labels) if weight is None else weight
        parents, is_known = parent_labels(labels, tasks), weight > 0
        is_fitted = torch.tensor(
            [
                _is_fitted(task, labels[is_known[:, t], t], parents[t][is_known[:, t]] > 0)
                for t, task in enumerate(tasks)
            ]
        )
        scale_mask = is_fitted & torch.tensor([task.is_binary for task in tasks])
        masks = ((self.scale, scale_mask.float()), (self.shift, is_fitted.float()))
        optimizer: torch.optim.Optimizer = torch.optim.LBFGS(
            self.parameters(), max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            at_position = label_logits(self(logits), tasks, position_bias, position)
            loss = torch.stack(calibration_losses(at_position, labels, tasks, weight)).sum()
            torch.autograd.backward(loss)
            for parameter, mask in masks:
                if parameter.grad is not None:
                    parameter.grad.mul_(mask)
            return float(loss.detach())

        optimizer.step(closure)


def level_shifts(
    tasks: Sequence[Task],
    logits: Tensor,
    weight: Tensor,
    levels: Sequence[float | None],
    position: Tensor | None = None,
    position_bias: PositionBias | None = None,
) -> Tensor:
    """Shifts [T] of calibrated logits [n, T].

    They multiply each task's weighted sum of outputs by the task's level.

    The outputs predict the labels: joint probabilities, conditional probabilities, and means given the
    parent. A parent is shifted before its children, and a child's shift takes the parent's shift into
    account. A task is not shifted if its level is None or all of its weights [n, T] are 0. A shift is bounded
    by MAX_LEVEL_SHIFT.
    """
    to_outputs = TaskOutputs(tasks, of_labels=True)
    shifts = logits.new_zeros(len(tasks))

    def log_sum(t: int) -> float:
        outputs = to_outputs(label_logits(logits + shifts, tasks, position_bias, position))
        return float((outputs[t].double() * weight[:, t]).sum().log())

    is_shifted = [level is not None and bool((weight[:, t] > 0).any()) for t, level in enumerate(levels)]
    targets = [log_sum(t) + log(levels[t] or 1.0) if is_shifted[t] else 0.0 for t in range(len(tasks))]
    for t in range(len(tasks)):
        if not is_shifted[t]:
            continue
        previous, error = 0.0, log_sum(t) - targets[t]
        step = -error  # for rare events, log p rises as fast as the logit
        while abs(error) > LEVEL_TOLERANCE and abs(step) > LEVEL_TOLERANCE:
            shifts[t] = min(max(previous + step, -MAX_LEVEL_SHIFT), MAX_LEVEL_SHIFT)
            change, last_error = float(shifts[t]) - previous, error
            previous, error = float(shifts[t]), log_sum(t) - targets[t]
            slope = (error - last_error) / change if change else 0.0
            step = -error / slope if slope > 0 else 0.0  # secant method
    return shifts


def calibration_losses(logits: Tensor, labels: Tensor, tasks: Sequence[Task], weight: Tensor) -> list[Tensor]:
    """The calibration loss of each task, with its ancestors held constant.

    `logits`, `labels` and `weight` are [n, T].
    """
    parents, parent_label = parent_indices(tasks), parent_labels(labels, tasks)
    logs = log_probabilities(logits.detach(), parents, [task.is_binary for task in tasks])
    losses: list[Tensor] = []
    for t, task in enumerate(tasks):
        logit, label, known = logits[:, t], labels[:, t], weight[:, t]
        if task.kind == "amount":
            losses.append(gamma_deviance(logit, label, parent_label[t], known))
        elif task.kind == "count":
            losses.append(poisson_loss(logit, label, parent_label[t], known))
        elif parents[t] < 0:
            losses.append(cross_entropy(logit, label, known))
        elif task.joint:
            log_p = logs[parents[t]] + nn.functional.logsigmoid(logit)
            losses.append(entire_space_loss(log_p, label, known))
        else:
            losses.append(conditional_loss(logit, parent_label[t], label, known))
    return losses


def label_logits(
    logits: Tensor,
    tasks: Sequence[Task],
    position_bias: PositionBias | None = None,
    position: Tensor | None = None,
) -> Tensor:
    """Turns logits [n, T] of items that the user sees into logits [n, T] of the labels at positions [n].

    The position bias acts on tasks without a parent; their children inherit it. In a task with a control c
    the bias acts on the part that the slot adds: p(label) = c + (1 - c) · p(seen | position) · σ(logit). An
    organic purchase has no position. The control is a constant here, because the control's own labels train
    it.
    """
    controls = control_indices(tasks)
    has_position = position_bias is not None and position is not None
    if not has_position and max(controls) < 0:
        return logits
    columns: list[Tensor] = []
    for t, task in enumerate(tasks):
        logit, is_root = logits[:, t], task.given is None
        log_seen = torch.zeros_like(logit)
        if position_bias is not None and position is not None and is_root and task.label != ORGANIC:
            if task.is_binary and controls[t] < 0:
                logit = position_bias(logit, position)
            elif controls[t] >= 0:
                log_seen = position_bias.log_examination(position)
        if controls[t] >= 0:
            logit = _logit_with_control(logit, logits[:, controls[t]].detach(), log_seen)
        columns.append(logit)
    return torch.stack(columns, dim=1)


def _logit_with_control(logit: Tensor, control: Tensor, log_seen: Tensor) -> Tensor:
    """The log-odds of c + (1 - c) · p(seen) · σ(logit), where c = σ(control). All are [n]."""
    log_effect = nn.functional.logsigmoid(logit) + log_seen
    log_organic, log_not_organic = (nn.functional.logsigmoid(sign * control) for sign in (1.0, -1.0))
    log_p = torch.logaddexp(log_organic, log_not_organic + log_effect)
    return log_p - (log_not_organic + log1mexp(log_effect))


def _is_fitted(task: Task, label: Tensor, parent: Tensor) -> bool:
    """Whether a sample is enough to fit a task's parameters. `label` is [n], `parent` [n] bool."""
    if not task.calibration:
        return False
    if not task.is_binary:
        return bool((parent & (label > 0)).any())
    fitted_label = label if task.joint else label[parent]
    return bool(fitted_label.any()) and not bool(fitted_label.all())
