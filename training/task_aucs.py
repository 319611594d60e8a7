"""The area under the ROC curve of each binary task on validation."""

import math
from collections.abc import Sequence

from torch import Tensor

from models.ranking.tasks import Task
from training.labels import measured_pairs
from training.rank_statistics import auc


def task_aucs(
    outputs: Tensor, labels: Tensor, is_known: Tensor, tasks: Sequence[Task]
) -> list[tuple[Task, float]]:
    """Returns binary task → its AUC over the candidates on which it is measured (`labels.measured_pairs`).

    Args:
        outputs: [T, n], as `TaskOutputs` gives them.
        labels: [n, T].
        is_known: [n, T] bool, whether the outcome is known.

    A task with only one class of outcomes has no AUC and is left out.
    """
    areas = []
    for t, (task, measured) in enumerate(zip(tasks, measured_pairs(labels, tasks), strict=True)):
        rows = is_known[:, t] & measured
        area = auc((labels[rows, t] > 0).cpu().numpy(), outputs[t, rows].float().cpu().numpy())
        if task.is_binary and not math.isnan(area):
            areas.append((task, area))
    return areas
