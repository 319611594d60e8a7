"""The AUC of each binary task on validation."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from models.ranking.tasks import Task
from training.task_aucs import task_aucs

CLICK = Task(name="click", kind="binary", label="click")
SPEND = Task(name="value", kind="amount", label="spend", given="click")


def soon(joint: bool) -> Task:
    return Task(name="soon", kind="binary", label="purchase", given="click", joint=joint)


def random_tasks(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [3, n] and labels [n, 3]; purchases without a click have the lowest outputs."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(n, 3, generator=generator) < 0.4).float()
    outputs = torch.rand(3, n, generator=generator)
    outputs[1] -= 2 * labels[:, 1] * (1 - labels[:, 0])
    return outputs, labels


@pytest.mark.parametrize("joint", [True, False])
def test_a_conditional_task_is_measured_where_its_parent_happened(joint: bool) -> None:
    outputs, labels = random_tasks()
    is_known = torch.ones_like(labels) > 0
    is_known[:50] = False
    areas = task_aucs(outputs, labels, is_known, (CLICK, soon(joint), SPEND))
    assert [task.name for task, _ in areas] == ["click", "soon"]
    rows = is_known[:, 1] & ((labels[:, 0] > 0) | joint)
    assert areas[1][1] == pytest.approx(roc_auc_score(labels[rows, 1], outputs[1, rows]))


def test_a_task_without_candidates_of_both_outcomes_has_no_auc() -> None:
    outputs, labels = random_tasks()
    labels[:, 0] = 0  # no click: the conditional task has no candidate
    assert task_aucs(outputs, labels, torch.ones_like(labels) > 0, (CLICK, soon(joint=False), SPEND)) == []
