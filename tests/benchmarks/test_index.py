"""What the index benchmark measures, on few vectors."""

import numpy as np
import pytest

from benchmarks import index


def test_every_family_is_measured_and_changes_take_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "CHANGES", 500)
    monkeypatch.setattr(index, "QUERIES", 40)
    vectors, queries = index.made(6000)
    assert vectors.shape == (6000, index.DIM)
    assert queries.shape == (40, index.DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    packed, rows = index.indexed(vectors)
    assert rows.tolist() == list(range(1, 6001))
    tried, changes = index.sextet(packed, queries, index.exact(vectors, queries))
    (chosen,) = [row for row in tried if row["chosen"]]
    assert chosen["recall"] >= index.TARGETS["recall"]
    assert chosen["bytes_per_vector"] <= 2 * index.TARGETS["bytes_per_vector"]  # lists weigh on few vectors
    assert changes["removed_but_returned"] == 0
    assert changes["added_and_found_first"] >= 0.97
    assert changes["recall"] >= changes["recall_rebuilt"] - 0.01
