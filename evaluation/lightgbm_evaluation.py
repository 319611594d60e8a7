"""Evaluation of LightGBM on a run's candidates and features.

The targets of LightGBM are always purchases and spend.
"""

from typing import Any, NamedTuple

import numpy as np

from evaluation import lightgbm_baseline, scoring
from evaluation.jagged import Array, RankedLists
from evaluation.labeled_pairs import LabeledPairs
from evaluation.objective import Objective
from evaluation.slates import SlateCandidates
from evaluation.task_outputs import purchase_task, spend_task
from evaluation.task_quality import amount_quality, binary_quality
from training.trained_run import Run

OBJECTIVE = Objective("purchase * value", {"purchase": "binary", "value": "amount"}, {})


class Results(NamedTuple):
    """LightGBM on the candidates of a run."""

    rankings: dict[str, RankedLists]  # by order
    candidates: SlateCandidates
    task_metrics: list[dict[str, Any]]


def evaluate(run: Run, split: str) -> Results:
    """Train LightGBM on the ranker's training candidates, and evaluate it on `split`.

    Training stops early by the loss on validation.
    """
    model = lightgbm_baseline.fit(
        scoring.training_pairs(run, "train"),
        scoring.training_pairs(run, "validation"),
        lightgbm_baseline.FitOptions(
            seed=run.cfg.seed, feature_names=scoring.feature_names(run), eval_period=100
        ),
    )
    # Only now, when the training pairs are freed: each set is gigabytes.
    pairs = scoring.proposed_pairs(run, split)
    purchase, spend = lightgbm_baseline.predict(model, pairs.features)
    return Results(
        lightgbm_baseline.rankings_by_order(pairs, purchase, spend),
        SlateCandidates(
            pairs.offsets, pairs.item, np.stack([purchase, spend], axis=1), np.zeros((len(purchase), 0))
        ),
        _task_metrics(run, pairs, purchase, spend),
    )


def _task_metrics(run: Run, pairs: LabeledPairs, purchase: Array, spend: Array) -> list[dict[str, Any]]:
    """The rows of the tasks that LightGBM also predicts: purchases, and the spend on them."""
    bought, rows = np.asarray(pairs.purchase, bool), []
    task, value = run.tasks[purchase_task(run.tasks)], spend_task(run.tasks)
    if task.label_key == "purchase":
        quality = binary_quality(bought, purchase)
        rows.append({"task": task.name, "kind": task.kind} | quality)
    if value is not None:
        quality = amount_quality(pairs.value[bought], spend[bought])
        rows.append({"task": run.tasks[value].name, "kind": "amount"} | quality)
    return rows
