"""A small marketplace, trained on with and without positions, held against its truth by the real commands."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.commands import command


@pytest.mark.slow
def test_models_come_near_the_truth(tmp_path: Path) -> None:
    runs = []
    for position in ("product", "none"):
        trained = command(
            "train.py", "experiment=simulated", "data.users=500", "data.items=300", "data.days=120",
            f"data.root={tmp_path}/simulated", f"paths.prepared={tmp_path}/prepared",
            f"paths.runs={tmp_path}/runs", f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db",
            "trainer.progress=false", f"ranker.train.position={position}", timeout=1800,
        )  # fmt: skip
        assert trained.returncode == 0, trained.stderr[-3000:]
        runs.append(str((tmp_path / "runs" / "latest").resolve()))
    evaluated = command("-m", "evaluation.simulated", *runs, "--out", str(tmp_path))
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    report = json.loads((tmp_path / "simulated.json").read_text())
    debiased, naive = (
        {row["task"]: row for row in report["Tasks"] if row["position"] == position}
        for position in ("product", "none")
    )
    for task in ("click", "purchase"):
        at_position = debiased[f"{task} at position, shown"]
        assert at_position["oracle_auc"] > 0.75
        assert at_position["oracle_auc"] - at_position["auc"] < 0.03
        assert abs(debiased[f"{task} if seen, entire space"]["predicted_over_true"] - 1) < 0.15
        assert naive[f"{task} if seen, shown"]["predicted_over_true"] < 0.75  # it takes unseen for disliked
    for row in report["Positions"]:
        assert abs(row["learned"] - row["true"]) < 0.12
    (value,) = (row for row in report["Differences to the first run"] if row["metric"] == "value6")
    assert value["high"] >= 0, "slates of the naive model are certainly worth more"  # debiased minus naive
    selected = {row["pairs in"]: row["true"] for row in report["Conversion"]}
    assert selected["clicked"] > 1.3 * selected["entire space"]


@pytest.mark.slow
def test_increments_of_a_market_with_organic_demand(tmp_path: Path) -> None:
    """An order by expected value takes credit for needs; the truth says what its slates add."""
    trained = command(
        "train.py", "experiment=simulated", "data.users=400", "data.items=300", "data.days=100",
        "data.organic.share=0.6", "data.withhold=0.1", f"data.root={tmp_path}/simulated",
        f"paths.prepared={tmp_path}/prepared", f"paths.runs={tmp_path}/runs",
        f"mlflow.tracking_uri=sqlite:///{tmp_path}/mlflow.db", "trainer.progress=false", timeout=1800,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    run = str((tmp_path / "runs" / "latest").resolve())
    evaluated = command("-m", "evaluation.simulated", run, "--out", str(tmp_path))
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    report = json.loads((tmp_path / "simulated.json").read_text())
    rows = {row["order"]: row for row in report["Increments"]}
    assert rows["true increment"]["of_candidates"] == 1
    assert rows["value"]["of_candidates"] < 0.8
    assert rows["value"]["p_not_shown"] > 3 * rows["true increment"]["p_not_shown"]
    assert 0.5 < rows["true increment"]["of_catalog"] <= 1
    assert rows["true increment"]["low"] > 0
