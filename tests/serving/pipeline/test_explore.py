"""The exploring slot shows each item as often as its propensity says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import Recommender
from serving.pipeline.explore import EXPLORATION_POOL_SIZE, explore_last_slot
from serving.storage.golden_requests import read_golden_requests


@given(
    candidates=st.integers(6, 60), slots=st.integers(0, 6), epsilon=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_propensities_are_exact_and_only_the_last_slot_moves(
    candidates: int, slots: int, epsilon: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    score, eligible = rng.random(candidates), rng.random(candidates) < 0.7
    slate = rng.permutation(candidates)[:slots]
    eligible[slate] = True
    explored, propensity = explore_last_slot(slate, score, eligible, epsilon, rng)
    assert (explored[:-1] == slate[:-1]).all()
    assert len(set(explored.tolist())) == len(explored) == slots
    assert eligible[explored].all()
    assert (propensity[:-1] == 1).all()
    if slots:
        pool = min(EXPLORATION_POOL_SIZE, int(eligible.sum()) - slots + 1)
        is_unchanged = explored[-1] == slate[-1]
        assert propensity[-1] == pytest.approx(epsilon / pool + (1 - epsilon) * is_unchanged)


def test_items_are_shown_as_often_as_their_propensity_says() -> None:
    rng, counts, propensities = np.random.default_rng(0), np.zeros(40), np.zeros(40)
    score, eligible, slate = -np.arange(40.0), np.ones(40, bool), np.arange(6)
    for _ in range(20_000):
        explored, propensity = explore_last_slot(slate, score, eligible, 0.5, rng)
        counts[explored[-1]] += 1
        propensities[explored[-1]] = propensity[-1]
    assert np.flatnonzero(counts).tolist() == list(range(5, 5 + EXPLORATION_POOL_SIZE))
    assert propensities.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts / 20_000, propensities, atol=0.01)


def test_a_recommender_explores_at_its_rate(version: Path) -> None:
    recommender = Recommender.load(version)
    checkout = read_golden_requests(recommender.bundle)[0][0]
    plain = [item.item_id for item in recommender.recommend(checkout, 60_000).items]
    recommender.exploration_rate = 1.0
    last_items = set()
    for day in range(1, 30):  # a new state each time: no slate comes from the cache
        request = replace(checkout, profile={"age": float(day)}, exclude=[f"x{day}"])
        slate = recommender.recommend(request, 60_000)
        assert len({item.item_id for item in slate.items}) == 6
        assert all(item.propensity == 1 for item in slate.items[:5])
        assert 0 < slate.items[5].propensity <= 1 / 10
        last_items.add(slate.items[5].item_id)
    assert len(last_items) > 5
    assert [item.item_id for item in recommender.recommend(checkout, float("inf")).items] == plain
