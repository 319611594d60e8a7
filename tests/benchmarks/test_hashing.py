"""The hashing table comes from real runs."""

import json
from pathlib import Path

import pytest

from benchmarks import hashing
from models.embeddings import pack_int8
from tests.data.shop import write_shop


def test_bytes_are_those_of_the_tables() -> None:
    import torch

    table = torch.randn(50, 32)
    assert hashing.table_bytes(50, 32, int8=False) == table.numel() * table.element_size()
    assert hashing.table_bytes(50, 32, int8=True) == pack_int8(table).numel()


@pytest.mark.slow
def test_the_sweep_trains_every_size(tmp_path: Path, monkeypatch) -> None:
    root = write_shop(tmp_path / "shop", users=40, items=80, days=90, events=True, seed=0)
    monkeypatch.chdir(tmp_path)
    overrides = (
        "experiment=debug", "data=tables", f"data.root={root}", "retrieval.train.epochs=1",
        f"paths.prepared={tmp_path / 'prepared'}", f"paths.runs={tmp_path / 'runs'}",
    )  # fmt: skip
    assert hashing.benchmark(hashing.HashingOptions(overrides=overrides)) == 0
    rows = json.loads(Path("reports/hashing.json").read_text())
    assert [(row["items_per_row"], row["hashes"]) for row in rows] == [
        (1, 0), (4, 1), (4, 2), (16, 1), (16, 2), (64, 1), (64, 2),
    ]  # fmt: skip
    assert rows[1]["rows"] == rows[0]["rows"] // 4
    assert all(0 < row["recall300"] <= 1 for row in rows)
