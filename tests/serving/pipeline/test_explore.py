"""The exploring slot shows what it should as often as it says."""

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
    candidates=st.integers(6, 60), shown=st.integers(0, 6), epsilon=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_propensities_are_exact_and_only_the_last_slot_moves(
    candidates: int, shown: int, epsilon: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    score, eligible = rng.random(candidates), rng.random(candidates) < 0.7
    slate = rng.permutation(candidates)[:shown]
    eligible[slate] = True
    found, chance = explore_last_slot(slate, score, eligible, epsilon, rng)
    assert (found[:-1] == slate[:-1]).all()
    assert len(set(found.tolist())) == len(found) == shown
    assert eligible[found].all()
    assert (chance[:-1] == 1).all()
    if shown:
        pool = min(EXPLORATION_POOL_SIZE, int(eligible.sum()) - shown + 1)
        stays = found[-1] == slate[-1]
        assert chance[-1] == pytest.approx(epsilon / pool + (1 - epsilon) * stays)


def test_items_are_shown_as_often_as_their_propensity_says() -> None:
    rng, counts, chances = np.random.default_rng(0), np.zeros(40), np.zeros(40)
    score, eligible, slate = -np.arange(40.0), np.ones(40, bool), np.arange(6)
    for _ in range(20_000):
        found, chance = explore_last_slot(slate, score, eligible, 0.5, rng)
        counts[found[-1]] += 1
        chances[found[-1]] = chance[-1]
    assert np.flatnonzero(counts).tolist() == list(range(5, 5 + EXPLORATION_POOL_SIZE))
    assert chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(counts / 20_000, chances, atol=0.01)


def test_a_recommender_explores_when_it_is_told_to(version: Path) -> None:
    mine = Recommender.load(version)
    checkout = read_golden_requests(mine.bundle)[0][0]
    plain = [item.item_id for item in mine.recommend(checkout, 60_000).items]
    mine.exploration_rate = 1.0
    last = set()
    for day in range(1, 30):  # another state every time, so that none is remembered
        slate = mine.recommend(replace(checkout, profile={"age": float(day)}, exclude=[f"x{day}"]), 60_000)
        assert len({item.item_id for item in slate.items}) == 6
        assert all(item.propensity == 1 for item in slate.items[:5])
        assert 0 < slate.items[5].propensity <= 1 / 10
        last.add(slate.items[5].item_id)
    assert len(last) > 5
    assert [item.item_id for item in mine.recommend(checkout, float("inf")).items] == plain
