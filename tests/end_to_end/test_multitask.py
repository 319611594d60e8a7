"""The command that compares the multi-task variants, on a small shop."""

import json
from pathlib import Path

import pytest

from tests.data.shop import write_shop
from tests.end_to_end.commands import command, train_arguments


@pytest.mark.slow
def test_variants_are_compared_on_the_same_candidates(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write_shop(shop)
    settings = train_arguments(tmp_path, shop)[1:]
    out = ["--out", str(tmp_path / "reports")]
    finished = command("-m", "benchmarks.multitask", "shared_bottom", "esmm:escm2_dr", *settings, *out)
    assert finished.returncode == 0, finished.stderr[-3000:]
    rows = json.loads((tmp_path / "reports" / "multitask.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["shared_bottom", "esmm:escm2_dr"]
    for row in rows:
        assert 0 < row["test_ndcg6"] <= 1
        assert 0 <= row["ece_purchase"] < 0.5
        assert min(row["latency_ms"], row["training_seconds"], row["parameters"]) > 0
        assert f"| {row['variant']} | {row['seed']} | {row['validation_ndcg6']:.4f} |" in finished.stdout
    assert len(list((tmp_path / "runs").glob("candidates-*/done.json"))) == 1
    health = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("ranker-*/health.json")]
    assert len(health) == 2
    assert all(set(report) == {"gates", "gradient_cosine", "alarms", "notes"} for report in health)
    (counterfactual,) = (
        file.parent for file in (tmp_path / "runs").glob("ranker-*/config.yaml")
        if "escm2_dr" in file.read_text()
    )  # fmt: skip
    exported = command(
        "export.py", f"run={counterfactual}", f"bundle.dir={tmp_path}/bundle", "verify.checkouts=20",
        "verify.golden=4",
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr[-3000:]
    assert "parity over" in exported.stdout  # with the network without its loss
    wrong_variant = command("-m", "benchmarks.multitask", "mmo", *settings)
    assert wrong_variant.returncode == 1
    assert "Did you mean mmoe" in wrong_variant.stderr
    wrong_loss = command("-m", "benchmarks.multitask", "mmoe:escm_ips", *settings)
    assert wrong_loss.returncode == 1
    assert "Did you mean escm2_ips" in wrong_loss.stderr
