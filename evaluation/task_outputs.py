"""p(purchase) and expected value of a run's tasks, and the candidates on which each task is measured."""

from collections.abc import Sequence

import numpy as np

from evaluation.jagged import Array
from models.ranking.tasks import Task, parent_indices


def purchase_task(tasks: Sequence[Task]) -> int:
    """Return the position of the task whose probability is used as p(purchase).

    This is the binary task with the label `purchase` and without a window, else the last joint binary task.
    """
    for t, task in enumerate(tasks):
        if task.is_binary and task.label_key == "purchase":
            return t
    return [t for t, task in enumerate(tasks) if task.is_binary and task.joint][-1]


def spend_task(tasks: Sequence[Task]) -> int | None:
    """Return the position of the task that predicts the spend inside the horizon, or None."""
    return next((t for t, task in enumerate(tasks) if task.label_key == "spend"), None)


def joint_probability(outputs: Array, tasks: Sequence[Task], t: int) -> Array:
    """Return p(binary task t and all its ancestors) [P], from outputs [P, T]."""
    parent = parent_indices(tasks)[t]
    own: Array = outputs[:, t]
    return own if parent < 0 or tasks[t].joint else own * joint_probability(outputs, tasks, parent)


def purchase_probability(outputs: Array, tasks: Sequence[Task]) -> Array:
    """Return p(purchase) [P] by the task `purchase_task`, from outputs [P, T]."""
    return joint_probability(outputs, tasks, purchase_task(tasks))


def expected_value(outputs: Array, tasks: Sequence[Task]) -> Array | None:
    """Return the expected spend [P] = p(parent) · E[spend | parent], or None without a spend task.

    `outputs` are [P, T].
    """
    t = spend_task(tasks)
    if t is None:
        return None
    parent = parent_indices(tasks)[t]
    mean: Array = outputs[:, t]
    return mean if parent < 0 else joint_probability(outputs, tasks, parent) * mean


def measured_rows(labels: Array, tasks: Sequence[Task], t: int) -> Array:
    """Return whether task t is measured on each candidate: [P] bool, from the labels [P, T].

    A joint probability is measured on all candidates. A conditional probability, an amount and a count are
    measured only on candidates for which the parent's event happened.
    """
    parent = parent_indices(tasks)[t]
    if parent < 0 or (tasks[t].is_binary and tasks[t].joint):
        return np.ones(len(labels), bool)
    happened: Array = labels[:, parent] > 0
    return happened
