"""Sorting, filtering and merging of jagged lists against plain Python."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.baselines import backfill
from evaluation.jagged import (
    RankedLists,
    concat_jagged,
    concat_ranges,
    find_sorted,
    group_sum,
    mask_jagged,
    mask_offsets,
    sort_descending,
    to_offsets,
    top_k,
)

SCORES = st.dictionaries(st.integers(1, 30), st.integers(0, 5), max_size=15)
LISTS = st.lists(SCORES, min_size=1, max_size=8)


def ranked(rows):
    item = np.array([i for row in rows for i in row], np.int64)
    score = np.array([s for row in rows for s in row.values()], np.float64)
    return RankedLists(to_offsets(np.array([len(row) for row in rows])), item, score)


def nested(offsets, values):
    return [values[a:b].tolist() for a, b in pairwise(offsets)]


@given(LISTS, st.integers(1, 7), st.sets(st.integers(1, 30)))
@settings(deadline=None, max_examples=80)
def test_top_takes_the_best_eligible_and_ties_keep_their_order(rows, k, banned):
    lists = sort_descending(ranked(rows))
    slates = top_k(lists, k, ~np.isin(lists.item, list(banned)))
    for row, slate in zip(rows, slates.tolist(), strict=True):
        best = [i for i in sorted(row, key=lambda i: -row[i]) if i not in banned][:k]
        assert slate == best + [-1] * (k - len(best))


@given(LISTS, LISTS)
@settings(deadline=None, max_examples=60)
def test_fillers_come_after_all_ranked_items(a, b):
    n = min(len(a), len(b))
    merged = sort_descending(backfill(ranked(a[:n]), ranked(b[:n])))
    for scores, filler, items in zip(a, b, nested(merged.offsets, merged.item), strict=False):
        # Items with a score keep its order, fillers the given one.
        assert items == sorted(scores, key=lambda i: -scores[i]) + [i for i in filler if i not in scores]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), max_size=40))
@settings(deadline=None, max_examples=60)
def test_group_sum_matches_a_dictionary(triples):
    expected: dict = {}
    for row, item, weight in triples:
        expected[row, item] = expected.get((row, item), 0) + weight
    row, item, weight = np.array(triples, np.int64).reshape(-1, 3).T
    summed = group_sum(row, item, weight.astype(float), 5)
    rows = np.repeat(np.arange(5), np.diff(summed.offsets))
    assert dict(zip(zip(rows, summed.item, strict=True), summed.score, strict=True)) == expected


def test_masked_and_concatenated_rows():
    lists = ranked([{4: 1, 2: 3}, {}, {7: 2}])
    kept = mask_jagged(lists, np.array([False, True, True]))
    assert nested(kept.offsets, kept.item) == [[2], [], [7]]
    both = concat_jagged([lists, kept])
    assert nested(both.offsets, both.item) == [[4, 2], [], [7], [2], [], [7]]
    assert both.score.tolist() == [1, 3, 2, 3, 2]


def test_small_functions():
    assert concat_ranges(np.array([4, 9, 0]), np.array([2, 0, 3])).tolist() == [4, 5, 0, 1, 2]
    assert mask_offsets(np.array([0, 2, 2, 5]), np.array([1, 0, 0, 1, 1], bool)).tolist() == [0, 1, 1, 3]
    assert find_sorted(np.array([2, 5]), np.array([5, 1, 9])).tolist() == [1, -1, -1]
    assert find_sorted(np.zeros(0, np.int64), np.array([5])).tolist() == [-1]
    with pytest.raises(ValueError, match="1 candidates have the score NaN"):
        sort_descending(RankedLists(np.array([0, 1]), np.array([3]), np.array([np.nan])))
