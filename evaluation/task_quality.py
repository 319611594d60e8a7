"""Quality of the predictions of every task, over the candidates with an outcome."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.jagged import Array
from evaluation.metrics import predicted_over_observed, probability_quality
from evaluation.scoring import ScoredCandidates, known_candidates
from evaluation.task_outputs import measured_rows
from models.ranking.tasks import Task


def task_metrics(scored: ScoredCandidates, tasks: Sequence[Task]) -> list[dict[str, Any]]:
    """Return a row per task over the candidates on which it is measured (`task_outputs.measured_rows`).

    A binary task has AUC, ECE, predicted / observed and log loss. An amount or a count has predicted /
    observed and the correlation. `positives` is the number of labels above 0; if it is 0, the row has no
    metrics.
    """
    known = known_candidates(scored)
    rows = []
    for t, task in enumerate(tasks):
        mask = measured_rows(known.labels, tasks, t) & known.is_known[:, t]
        label, prediction = known.labels[mask, t], known.outputs[mask, t]
        quality = binary_quality if task.is_binary else amount_quality
        rows.append({"task": task.name, "kind": task.kind} | quality(label, prediction))
    return rows


def binary_quality(label: Array, probability: Array) -> dict[str, Any]:
    """Return `pairs` and `positives`. If there are positives, add the metrics of probabilities [m]."""
    is_positive = label > 0
    counts = {"pairs": len(label), "positives": int(is_positive.sum())}
    return counts | (probability_quality(is_positive, probability) if is_positive.any() else {})


def amount_quality(label: Array, prediction: Array) -> dict[str, Any]:
    """Return `pairs` and `positives`. If there are positives, add the metrics of predicted means [m]."""
    counts = {"pairs": len(label), "positives": int((label > 0).sum())}
    if not counts["positives"]:
        return counts
    varies = np.ptp(label) > 0 and np.ptp(prediction) > 0
    correlation = float(np.corrcoef(label, prediction)[0, 1]) if varies else float("nan")
    ratio = predicted_over_observed(label, prediction)
    return counts | {"predicted_over_observed": ratio, "correlation": correlation}
