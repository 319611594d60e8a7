"""Candidates of a batch without what their checkouts keep off the slate."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.jagged import segment_ids
from serving.pipeline.exclusion import ExclusionRule
from tests.models.shops import random_candidates, random_query
from training.slate_exclusion import PURCHASE, SlateExclusion

DAY, N_ITEMS = 86_400, 30


@settings(deadline=None, max_examples=30)
@given(st.booleans(), st.sampled_from([0, 7 * DAY, 60 * DAY]), st.integers(0, 10_000))
def test_a_candidate_stays_unless_its_own_checkout_excludes_it(basket: bool, within: int, seed: int) -> None:
    query, candidates = random_query(seed, items=N_ITEMS), random_candidates(seed, items=N_ITEMS, scored=2)
    repeatable = np.arange(N_ITEMS + 1) % 3 == 0
    exclusion = SlateExclusion(ExclusionRule(basket, within), repeatable)
    kept = exclusion.drop_excluded(candidates, query)
    expected = []
    for row, item in zip(segment_ids(candidates.offsets).tolist(), candidates.item.tolist(), strict=True):
        lines = slice(*query.basket_offsets[row : row + 2].tolist())
        events = slice(*query.history_offsets[row : row + 2].tolist())
        age = query.ts[row] - query.history_ts[events]
        bought = query.history_item[events][(query.history_kind[events] == PURCHASE) & (age <= within)]
        is_excluded = (basket and item in query.basket_item[lines]) or (within and item in bought)
        if repeatable[item] or not is_excluded:
            expected.append((row, item))
    rows = segment_ids(kept.offsets).tolist()
    assert list(zip(rows, kept.item.tolist(), strict=True)) == expected
    assert all(len(field) == len(kept.item) for field in kept[1:])
