"""Statistics of ranks: the area under the ROC curve."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def auc(label: Array, score: Array) -> float:
    """The area under the ROC curve of `label` and `score` [m]. Ties count half (Mann-Whitney).

    NaN if all labels are equal.
    """
    label = np.asarray(label, bool)
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = midranks(score)
    return float((ranks[label].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def midranks(values: Array) -> Array:
    """Returns the ranks of values, from 1: [m] float64. Equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
