"""Recall of items that were never sold, from real trainings."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import new_items


def test_keys_leave_out_empty_places() -> None:
    items = torch.tensor([[3, 1], [2, -1]])
    assert new_items.item_keys(items, 10).tolist() == [3, 1, 12]


@pytest.mark.slow
def test_vectors_place_items_that_were_never_sold(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = (
        "data.users=400", "data.items=800", "data.days=90", f"data.root={tmp_path / 'simulated'}",
        f"paths.prepared={tmp_path / 'prepared'}", f"paths.runs={tmp_path / 'runs'}",
        "trainer.progress=false", f"mlflow.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}",
    )  # fmt: skip
    assert new_items.benchmark(new_items.NewItemOptions(overrides=overrides)) == 0
    rows = json.loads(Path("reports/new_items.json").read_text())
    recall = {(row["vector"], row["items"], row["system"]): row["recall100"] for row in rows}
    without, towers = recall[0, "untrained", "two towers"], recall[32, "untrained", "two towers"]
    assert towers >= 3 * without
    assert towers > recall[32, "untrained", "random"]
    assert recall[32, "all", "two towers"] > recall[32, "all", "random"]
    assert recall[32, "never_sold", "popularity, 28 days"] == 0
