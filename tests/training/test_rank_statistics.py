"""Statistics of ranks against scikit-learn's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from training.rank_statistics import auc, midranks


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.random(60) < 0.4
    label[:2] = True, False
    score = rng.integers(0, 5, 60).astype(float)  # many ties
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score))


@pytest.mark.parametrize("label", [True, False])
def test_auc_of_one_class_is_nan(label: bool) -> None:
    assert math.isnan(auc(np.full(3, label), np.arange(3.0)))


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert midranks(np.array([7.0, 1.0, 7.0, 3.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
