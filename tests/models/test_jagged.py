"""Operations on jagged tensors against plain loops."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.jagged import contains, rank_in_segment, top_k_in_segment

SCORES = st.sampled_from([-3e38, -7.5, -1.0, -1e-45, 0.0, 1e-45, 0.5, 1.0, 7.5, 3e38])
PAIRS = st.lists(st.tuples(st.integers(0, 3), SCORES), max_size=40)


@settings(deadline=None)
@given(PAIRS)
def test_ranks_count_within_a_segment(pairs: list[tuple[int, float]]) -> None:
    """A single segment has a shorter path with the same result."""
    for values, n_segments in ((pairs, 0), ([(0, score) for _, score in pairs], 1)):
        segments = torch.tensor([segment for segment, _ in values], dtype=torch.int64)
        score = torch.tensor([score for _, score in values])
        expected = [
            sum(s == segment and (x > value or (x == value and j < i)) for j, (s, x) in enumerate(values))
            for i, (segment, value) in enumerate(values)
        ]
        assert rank_in_segment(segments, score).tolist() == expected
        position = top_k_in_segment(segments, score, 3, n_segments).tolist()
        assert position == [i for i in range(len(values)) if expected[i] < 3]


@settings(deadline=None)
@given(st.sets(st.integers(-9, 9)), st.lists(st.integers(-9, 9), max_size=20))
def test_contains_is_membership(unique: set[int], keys: list[int]) -> None:
    sorted_keys = torch.tensor(sorted(unique), dtype=torch.int64)
    assert contains(sorted_keys, torch.tensor(keys, dtype=torch.int64)).tolist() == [
        key in unique for key in keys
    ]
