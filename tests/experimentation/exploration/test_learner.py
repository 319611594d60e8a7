"""The learner against what is true, and against the same belief written out as one matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentation.exploration import learner
from experimentation.exploration.learner import BlockPrecision, LogisticBelief, Observations
from experimentation.off_policy.simulated_logs import EXAMINATION_PROBABILITY

F, ITEMS = 3, 8


def outcomes(rng: np.random.Generator, weight: np.ndarray, item: np.ndarray, m: int) -> Observations:
    """Answers to random items at random slots, by these weights and intercepts."""
    facts, what = rng.normal(0, 1, (m, len(weight))), rng.integers(0, len(item), m)
    seen = EXAMINATION_PROBABILITY[rng.integers(0, len(EXAMINATION_PROBABILITY), m)]
    liked = 1 / (1 + np.exp(-(facts @ weight + item[what])))
    return Observations(facts, what, seen, rng.random(m) < seen * liked)


def belief(seed: int) -> LogisticBelief:
    """A belief that has seen some answers."""
    rng = np.random.default_rng(seed)
    return learner.update_belief(
        learner.prior(F, ITEMS), outcomes(rng, rng.normal(0, 1, F), rng.normal(0, 0.5, ITEMS), 60)
    )


def dense(precision: BlockPrecision) -> np.ndarray:
    """[F + I, F + I]"""
    return np.block(
        [
            [precision.weight_block, precision.cross_block],
            [precision.cross_block.T, np.diag(precision.item_diagonal)],
        ]
    )


def test_weights_and_intercepts_are_recovered_whatever_the_slots() -> None:
    rng = np.random.default_rng(0)
    weight, item = np.array([1.0, -0.7, 0.3]), rng.normal(0, 0.5, ITEMS)
    head = learner.prior(F, ITEMS)
    for _ in range(30):
        head = learner.update_belief(head, outcomes(rng, weight, item, 1500))
    covariance = np.linalg.inv(dense(head.precision))
    error = np.r_[head.weight_mean - weight, head.item_mean - item] / np.sqrt(np.diagonal(covariance))
    assert np.abs(error).max() < 4
    assert np.sqrt(np.diagonal(covariance)).max() < 0.06


def test_one_batch_is_the_mode_of_what_is_known() -> None:
    rng = np.random.default_rng(1)
    told = outcomes(rng, np.array([0.5, -1.0, 0.2]), rng.normal(0, 0.5, ITEMS), 200)
    head = learner.update_belief(learner.prior(F, ITEMS), told)

    def loss(numbers: np.ndarray) -> float:
        weight, item = numbers[:F], numbers[F:]
        chance = told.p_examined / (1 + np.exp(-(told.features @ weight + item[told.item])))
        prior = (weight**2).sum() / learner.PRIOR_WEIGHT_SD**2 + (item**2).sum() / learner.PRIOR_ITEM_SD**2
        return prior / 2 - np.log(np.where(told.label, chance, 1 - chance)).sum()

    found = np.r_[head.weight_mean, head.item_mean]
    least = loss(found)
    for at in range(F + ITEMS):
        for step in (-0.02, 0.02):
            moved = found.copy()
            moved[at] += step
            assert loss(moved) > least


def test_no_answers_change_nothing() -> None:
    head = belief(0)
    none = Observations(np.zeros((0, F)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    after = learner.update_belief(head, none)
    np.testing.assert_allclose(after.weight_mean, head.weight_mean)
    np.testing.assert_allclose(dense(after.precision), dense(head.precision))


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_blocks_are_the_whole_matrix(seed: int) -> None:
    head, rng = belief(seed), np.random.default_rng(seed)
    whole = dense(head.precision)
    vector = rng.normal(0, 1, F + ITEMS)
    np.testing.assert_allclose(
        np.r_[head.precision.matvec(vector[:F], vector[F:])], whole @ vector, atol=1e-9
    )
    solved = np.concatenate(head.precision.solve(vector[:F], vector[F:]))
    np.testing.assert_allclose(solved, np.linalg.solve(whole, vector), atol=1e-9)
    facts = rng.normal(0, 1, (4, ITEMS, F))
    rows = np.concatenate([facts, np.broadcast_to(np.eye(ITEMS), (4, ITEMS, ITEMS))], 2)  # [n, I, F + I]
    variance = np.einsum("nid,de,nie->ni", rows, np.linalg.inv(whole), rows)
    np.testing.assert_allclose(learner.logit_sd(head, facts), np.sqrt(variance), atol=1e-9)
    np.testing.assert_allclose(
        learner.mean_logits(head, facts), rows @ np.r_[head.weight_mean, head.item_mean]
    )


def test_draws_have_the_belief_as_their_law() -> None:
    head, rng = belief(3), np.random.default_rng(3)
    facts = np.repeat(rng.normal(0, 1, (1, ITEMS, F)), 40_000, 0)
    drawn = learner.sample_logits(head, facts, rng, 1.0)
    spread = learner.logit_sd(head, facts[:1])[0]
    np.testing.assert_allclose(
        (drawn.mean(0) - learner.mean_logits(head, facts[:1])[0]) / spread, 0, atol=0.02
    )
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.03)
    half = learner.sample_logits(head, facts, rng, 0.5)
    np.testing.assert_allclose(half.std(0), spread / 2, rtol=0.03)
    rows = np.c_[facts[0], np.eye(ITEMS)]
    together = rows @ np.linalg.inv(dense(head.precision)) @ rows.T / np.outer(spread, spread)
    np.testing.assert_allclose(np.corrcoef(drawn.T), together, atol=0.02)


def test_an_answer_tells_most_of_its_own_item() -> None:
    head = learner.prior(F, ITEMS)
    m = 40
    yes = learner.update_belief(
        head, Observations(np.zeros((m, F)), np.zeros(m, np.int64), np.ones(m), np.ones(m, bool))
    )
    assert yes.item_mean[0] > 0.5
    assert yes.item_mean[1:] == pytest.approx(0)
    spread = learner.logit_sd(yes, np.zeros((1, ITEMS, F)))[0]
    assert spread[0] < spread[1] == pytest.approx(learner.PRIOR_ITEM_SD)
