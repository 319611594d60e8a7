import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentation.off_policy import plackett_luce


def enumerated(score: np.ndarray, slots: int) -> np.ndarray:
    """Probability of every item at every slot [slots, I], summed over all slates."""
    probability = np.zeros((slots, len(score)))
    for slate in itertools.permutations(range(len(score)), slots):
        remaining = list(range(len(score)))
        p = 1.0
        for item in slate:
            p *= np.exp(score[item]) / np.exp(score[remaining]).sum()
            remaining.remove(item)
        probability[np.arange(slots), slate] += p
    return probability


@given(st.lists(st.floats(-4, 4), min_size=3, max_size=6), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_slot_probabilities_are_sums_over_all_slates(scores: list[float], slots: int) -> None:
    score = np.array(scores)
    probability = plackett_luce.slot_probabilities(score[None], slots)[0]
    np.testing.assert_allclose(probability, enumerated(score, slots), atol=1e-9)


def test_many_policies_are_computed_in_batches() -> None:
    score = np.random.default_rng(0).normal(0, 1, (2 * plackett_luce.BATCH_SIZE + 5, 9))
    probability = plackett_luce.slot_probabilities(score, 4)
    np.testing.assert_allclose(probability.sum(2), 1, atol=1e-9)
    np.testing.assert_allclose(probability[-1], plackett_luce.slot_probabilities(score[-1:], 4)[0])


def test_slates_are_drawn_with_their_probabilities() -> None:
    score, n = np.array([0.0, 1.0, -1.0, 0.5]), 40_000
    slates = plackett_luce.sample_slates(np.repeat(score[None], n, 0), 2, np.random.default_rng(1))
    assert (slates[:, 0] != slates[:, 1]).all()
    shares = np.stack([np.bincount(slates[:, k], minlength=4) / n for k in range(2)])
    np.testing.assert_allclose(shares, enumerated(score, 2), atol=0.01)
    conditional = plackett_luce.conditional_probabilities(np.repeat(score[None], n, 0), slates)
    np.testing.assert_allclose(conditional[:, 0], (np.exp(score) / np.exp(score).sum())[slates[:, 0]])
    first, second = slates[0]
    remaining = np.exp(score).sum() - np.exp(score[first])
    assert conditional[0, 1] == pytest.approx(np.exp(score[second]) / remaining)
