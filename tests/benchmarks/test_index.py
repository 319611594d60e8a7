"""The figures of the index benchmark, on few vectors."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import index


def test_every_family_is_measured_and_changes_take_effect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(index, "N_CHANGES", 500)
    monkeypatch.setattr(index, "N_QUERIES", 40)
    vectors, queries = index.random_dataset(6000)
    assert vectors.shape == (6000, index.DIM)
    assert queries.shape == (40, index.DIM)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    tuned = index.tune_index(vectors, queries, index.exact_neighbours(vectors, queries), tmp_path)
    (chosen,) = [row for row in index.sweep_rows(tuned) if row["chosen"]]
    assert chosen["recall"] >= index.TARGETS["recall"]
    assert chosen["bytes_per_vector"] <= 2 * index.TARGETS["bytes_per_vector"]  # lists weigh on few vectors
    updates = index.measure_updates(tuned, vectors, queries)
    assert updates["removed_items_returned"] == 0
    assert updates["added_recall_at_1"] >= 0.97
    assert updates["recall"] >= updates["recall_rebuilt"] - 0.01


def test_a_sharded_build_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(index, "FOLDER", tmp_path)
    row = index.measure_build(3000, 2)
    assert (row["vectors"], row["shards"], row["int8_vectors_mb"]) == (3000, 2, 0)
    assert row["build_s"] > 0
    assert list((tmp_path).iterdir()) == []
