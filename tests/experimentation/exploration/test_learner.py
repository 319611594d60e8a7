"""The learner recovers true parameters, and agrees with the same belief as one dense matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentation.exploration import learner
from experimentation.exploration.learner import BlockPrecision, LogisticBelief, Observations
from experimentation.off_policy.simulated_logs import EXAMINATION_PROBABILITY

F, ITEMS = 3, 8


def sample_observations(
    rng: np.random.Generator, weight: np.ndarray, item: np.ndarray, m: int
) -> Observations:
    """Responses to random items at random slots, by these weights and intercepts."""
    features, row = rng.normal(0, 1, (m, len(weight))), rng.integers(0, len(item), m)
    p_examined = EXAMINATION_PROBABILITY[rng.integers(0, len(EXAMINATION_PROBABILITY), m)]
    p_click = 1 / (1 + np.exp(-(features @ weight + item[row])))
    return Observations(features, row, p_examined, rng.random(m) < p_examined * p_click)


def make_belief(seed: int) -> LogisticBelief:
    """A belief after 60 observations."""
    rng = np.random.default_rng(seed)
    return learner.update_belief(
        learner.prior(F, ITEMS), sample_observations(rng, rng.normal(0, 1, F), rng.normal(0, 0.5, ITEMS), 60)
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
    belief = learner.prior(F, ITEMS)
    for _ in range(30):
        belief = learner.update_belief(belief, sample_observations(rng, weight, item, 1500))
    covariance = np.linalg.inv(dense(belief.precision))
    z = np.r_[belief.weight_mean - weight, belief.item_mean - item] / np.sqrt(np.diagonal(covariance))
    assert np.abs(z).max() < 4
    assert np.sqrt(np.diagonal(covariance)).max() < 0.06


def test_one_update_finds_the_posterior_mode() -> None:
    rng = np.random.default_rng(1)
    observations = sample_observations(rng, np.array([0.5, -1.0, 0.2]), rng.normal(0, 0.5, ITEMS), 200)
    belief = learner.update_belief(learner.prior(F, ITEMS), observations)

    def loss(numbers: np.ndarray) -> float:
        weight, item = numbers[:F], numbers[F:]
        p = observations.p_examined / (
            1 + np.exp(-(observations.features @ weight + item[observations.item]))
        )
        prior = (weight**2).sum() / learner.PRIOR_WEIGHT_SD**2 + (item**2).sum() / learner.PRIOR_ITEM_SD**2
        return prior / 2 - np.log(np.where(observations.label, p, 1 - p)).sum()

    mode = np.r_[belief.weight_mean, belief.item_mean]
    min_loss = loss(mode)
    for parameter in range(F + ITEMS):
        for step in (-0.02, 0.02):
            shifted = mode.copy()
            shifted[parameter] += step
            assert loss(shifted) > min_loss


def test_no_observations_change_nothing() -> None:
    belief = make_belief(0)
    empty = Observations(np.zeros((0, F)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool))
    after = learner.update_belief(belief, empty)
    np.testing.assert_allclose(after.weight_mean, belief.weight_mean)
    np.testing.assert_allclose(dense(after.precision), dense(belief.precision))


@given(seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_blocks_agree_with_the_dense_matrix(seed: int) -> None:
    belief, rng = make_belief(seed), np.random.default_rng(seed)
    whole = dense(belief.precision)
    vector = rng.normal(0, 1, F + ITEMS)
    np.testing.assert_allclose(
        np.r_[belief.precision.matvec(vector[:F], vector[F:])], whole @ vector, atol=1e-9
    )
    solved = np.concatenate(belief.precision.solve(vector[:F], vector[F:]))
    np.testing.assert_allclose(solved, np.linalg.solve(whole, vector), atol=1e-9)
    features = rng.normal(0, 1, (4, ITEMS, F))
    rows = np.concatenate([features, np.broadcast_to(np.eye(ITEMS), (4, ITEMS, ITEMS))], 2)  # [n, I, F + I]
    variance = np.einsum("nid,de,nie->ni", rows, np.linalg.inv(whole), rows)
    np.testing.assert_allclose(learner.logit_sd(belief, features), np.sqrt(variance), atol=1e-9)
    np.testing.assert_allclose(
        learner.mean_logits(belief, features), rows @ np.r_[belief.weight_mean, belief.item_mean]
    )


def test_draws_are_distributed_as_the_belief() -> None:
    belief, rng = make_belief(3), np.random.default_rng(3)
    features = np.repeat(rng.normal(0, 1, (1, ITEMS, F)), 40_000, 0)
    draws = learner.sample_logits(belief, features, rng, 1.0)
    sd = learner.logit_sd(belief, features[:1])[0]
    np.testing.assert_allclose(
        (draws.mean(0) - learner.mean_logits(belief, features[:1])[0]) / sd, 0, atol=0.02
    )
    np.testing.assert_allclose(draws.std(0), sd, rtol=0.03)
    narrow = learner.sample_logits(belief, features, rng, 0.5)
    np.testing.assert_allclose(narrow.std(0), sd / 2, rtol=0.03)
    rows = np.c_[features[0], np.eye(ITEMS)]
    correlation = rows @ np.linalg.inv(dense(belief.precision)) @ rows.T / np.outer(sd, sd)
    np.testing.assert_allclose(np.corrcoef(draws.T), correlation, atol=0.02)


def test_an_observation_informs_most_about_its_own_item() -> None:
    belief = learner.prior(F, ITEMS)
    m = 40
    updated = learner.update_belief(
        belief, Observations(np.zeros((m, F)), np.zeros(m, np.int64), np.ones(m), np.ones(m, bool))
    )
    assert updated.item_mean[0] > 0.5
    assert updated.item_mean[1:] == pytest.approx(0)
    sd = learner.logit_sd(updated, np.zeros((1, ITEMS, F)))[0]
    assert sd[0] < sd[1] == pytest.approx(learner.PRIOR_ITEM_SD)
