"""Candidates of checkouts with the ranker's features and their outcomes, as training data of LightGBM."""

from typing import NamedTuple

from evaluation.jagged import Array


class LabeledPairs(NamedTuple):
    """The candidates of n checkouts with their features and outcomes, P pairs."""

    offsets: Array  # [n+1] int64
    item: Array  # [P] int64, item rows
    features: Array  # [P, F] float32, NaN for missing
    purchase: Array  # [P] bool
    value: Array  # [P] float, spent on the item inside the horizon
    weight: Array  # [P] float32, the number of pairs that each represents
