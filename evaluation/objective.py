"""The objective of a run: an expression over tasks and item columns that orders its slates."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluation.jagged import Array, RankedLists, segment_ids
from evaluation.scoring import ScoredCandidates, proposed_candidates
from evaluation.task_outputs import purchase_task, spend_task
from models.ranking.tasks import Task
from serving.pipeline.objective import objective_names, parse_objective
from serving.pipeline.slate_policy import SlatePolicy, score_candidates
from training.objective import check_run_objective, task_kinds
from training.trained_run import Run


@dataclass(frozen=True)
class Objective:
    """An expression over tasks and item columns, with its inputs.

    Args:
        expression: as in `slate.objective`.
        tasks: name → kind, in the order of the outputs.
        item_columns: name → values [S, N+1] by snapshot and item, of the columns that the expression reads.
    """

    expression: str
    tasks: Mapping[str, str]
    item_columns: Mapping[str, Array]

    @property
    def reads_amount(self) -> bool:
        """Whether the revenue weight changes the order."""
        names = objective_names(parse_objective(self.expression))
        return any(self.tasks.get(name) == "amount" for name in names)

    def item_values(self, item: Array, snapshot: Array) -> Array:
        """Return the values [P, K] of the columns for P pairs of `item` [P] and `snapshot` [P]."""
        values = [column[snapshot, item] for column in self.item_columns.values()]
        return np.stack(values, axis=1) if values else np.zeros((len(item), 0))

    def scores(self, policy: SlatePolicy, outputs: Array, item_values: Array) -> Array:
        """Return logarithms [P] of the policy's objective, from `outputs` [P, T] and `item_values` [P, K]."""
        columns = dict(zip(self.item_columns, item_values.T, strict=True))
        return score_candidates(policy, self.tasks, outputs.T, columns)


def open_objective(run: Run) -> Objective:
    """The objective of a run, with the item columns that it reads.

    Raises ConfigError for an objective that the run's tasks and items cannot compute.
    """
    checked = check_run_objective(run.cfg, run.tasks, run.prepared)
    return Objective(checked.policy.objective, task_kinds(run.tasks), checked.columns)


def objective_order(expression: str, tasks: tuple[Task, ...]) -> str:
    """Return the name of the objective's order: `purchase`, `value`, or `objective` for any other.

    scoring.rankings_by_order defines the first two orders.
    """
    tree, spend = parse_objective(expression), spend_task(tasks)
    if tree == tasks[purchase_task(tasks)].name:
        return "purchase"
    if spend is None:
        return "objective"
    name, parent = tasks[spend].name, tasks[spend].given
    if tree == name and parent is None:
        return "value"
    is_joint = any(task.name == parent and (task.joint or task.given is None) for task in tasks)
    return "value" if is_joint and tree in (["*", parent, name], ["*", name, parent]) else "objective"


def objective_ranking(scored: ScoredCandidates, objective: Objective, snapshot: Array) -> RankedLists:
    """Score the proposed candidates by the objective; `snapshot` [n] is the snapshot of each checkout."""
    proposed = proposed_candidates(scored)
    values = objective.item_values(proposed.item, snapshot[segment_ids(proposed.offsets)])
    policy = SlatePolicy(objective=objective.expression)
    return RankedLists(proposed.offsets, proposed.item, objective.scores(policy, proposed.outputs, values))
