"""Vectors of items and users: their inner products are the scores that retrieval orders by."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from serving import Checkout, Recommender, open_store
from serving.batch import embeddings
from serving.cli import main
from serving.pipeline.encode import to_tensors


def read_vectors(file: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(file)
    vectors = table["vector"].combine_chunks()
    return table[0].to_pylist(), vectors.flatten().to_numpy().reshape(len(vectors), -1)


def test_inner_products_are_the_scores_of_retrieval(
    version: Path, shared: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "BATCH_ROWS", 7)
    monkeypatch.setattr(embeddings, "BATCH_USERS", 5)
    assert main(["embeddings", "--bundle", str(version.parent), "--out", str(tmp_path)]) == 0
    items, item_vectors = read_vectors(tmp_path / "items.parquet")
    users, user_vectors = read_vectors(tmp_path / "users.parquet")
    bundle, store = shared.bundle, open_store(version.parent / "store.arrow")
    assert items == bundle.item_id.to_pylist()[1:]
    assert users == sorted(users)
    assert item_vectors.shape[1] == user_vectors.shape[1]
    available = pq.read_table(tmp_path / "items.parquet")["available"].to_pylist()
    assert available == bundle.available[1:].tolist()

    user = users[7]
    ts = bundle.manifest["data"]["window"]["end"]
    query = to_tensors(shared.feature_encoder.encode_arrays(Checkout(user, [], ts), store.get(user), ts))
    with torch.inference_mode():
        vector = bundle.query_tower(query, bundle.catalog[-1])
    np.testing.assert_allclose(user_vectors[7], vector[0].numpy(), rtol=1e-4, atol=1e-5)
    scores = item_vectors @ user_vectors[7]
    scores[~bundle.available[1:]] = -np.inf
    found = bundle.index.search(vector.numpy(), 10)[0]
    # The index has 8-bit codes of its own.
    assert len(set(found.tolist()) & set((np.argsort(-scores)[:10] + 1).tolist())) >= 8


def test_without_an_exported_store_there_are_items_alone(
    version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "events.db"
    open_store(store).close()
    arguments = [
        "embeddings",
        "--bundle",
        str(version),
        "--store",
        str(store),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    assert "users.parquet is not written" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["items.parquet"]
