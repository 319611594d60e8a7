"""Alarms of a report on tasks that learned nothing.

They are not in `alarms.py`, because an export reads that module and must not depend on the scoring code.
"""

from collections.abc import Sequence
from typing import Any

from evaluation.jagged import Array, segment_ids
from evaluation.metrics import auc_interval, rank_correlation
from evaluation.scoring import ScoredCandidates, known_candidates
from evaluation.task_outputs import measured_rows
from models.ranking.tasks import Task
from serving.pipeline.objective import objective_names, parse_objective

MIN_POSITIVES = 30  # of a task, to say whether it learned


def task_alarms(
    scored: ScoredCandidates, tasks: Sequence[Task], users: Array, objective: str
) -> list[dict[str, Any]]:
    """Return an alarm for each task whose predictions are no better than chance.

    AUC measures a binary task, rank correlation an amount or a count, both with intervals over users. A task
    with fewer than MIN_POSITIVES positives is not measured. If every binary task that the objective reads
    learned nothing, the model is useless. `users` [n] is the user of each checkout.
    """
    known = known_candidates(scored)
    user = users[segment_ids(known.offsets)]
    names = objective_names(parse_objective(objective))
    alarms = []
    for t, task in enumerate(tasks):
        rows = measured_rows(known.labels, tasks, t) & known.is_known[:, t]
        label, prediction = known.labels[rows, t], known.outputs[rows, t]
        n_positive = int((label > 0).sum())
        if n_positive < MIN_POSITIVES:
            continue
        if task.is_binary:
            measure, found, chance = "AUC", auc_interval(label > 0, prediction, user[rows]), 0.5
        else:
            measure, found, chance = "rank correlation", rank_correlation(label, prediction, user[rows]), 0.0
        if found.low <= chance:  # False for NaN: one class, one amount or one user
            text = (
                f"the task {task.name} learned nothing: {measure} {found.value:.3f} ({found.low:.3f} to "
                f"{found.high:.3f}) over {len(label):,} candidates, {n_positive:,} of them positive; chance "
                f"is {chance:g}"
            )
            alarms.append({"text": text, "is_useless": task.is_binary and task.name in names})
    return alarms
