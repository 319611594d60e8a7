"""What a slot adds, with the real commands: trained from a log with ghosts, measured, exported and served."""

import json
from pathlib import Path

import pytest

from serving import Checkout, Line, Recommender
from serving.storage.bundle import read_manifest
from tests.end_to_end.test_tasks import report_tasks, run_command

DIFFERENCE = "(uplift + organic) * value - organic * value - 0.01"


@pytest.fixture(scope="module")
def market_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of `tasks=incremental` on a small market with withheld slates."""
    folder = tmp_path_factory.mktemp("uplift")
    run_command(
        "train.py", "experiment=debug", "data=simulated", "tasks=incremental", "data.users=120",
        "data.items=80", "data.days=90", "data.organic.share=0.6", "data.withhold=0.2",
        f"data.root={folder}/simulated", f"paths.prepared={folder}/prepared", f"paths.runs={folder}/runs",
        f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db", "ranker.train.epochs=3",
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_uplifts_are_measured_on_the_log_and_against_the_truth(market_folder: Path) -> None:
    tasks = report_tasks(market_folder)
    # Ghosts and unshown candidates have organic outcomes, impressions the others.
    assert tasks["organic"]["pairs"] > 3 * tasks["uplift"]["pairs"] == 3 * tasks["click"]["pairs"]
    assert tasks["organic"]["auc"] > 0.7
    assert tasks["uplift"]["auc"] > 0.6
    assert 0.6 < tasks["uplift"]["predicted_over_observed"] < 1.7
    output = run_command(
        "-m", "evaluation.uplift", f"{market_folder}/runs/latest", "--out", str(market_folder)
    )
    assert "doubly robust" in output
    report = json.loads((market_folder / "uplift.json").read_text())
    log = {row["estimate"]: row for row in report["Log"]}
    assert log["doubly robust"]["low"] < log["predicted"]["incremental_revenue"] * 2
    width = {name: row["high"] - row["low"] for name, row in log.items()}
    assert width["doubly robust"] < width["ghosts alone"]
    truth = {row["order"]: row["of_truth"] for row in report["Truth"]}
    assert truth["increment"] > truth["purchase"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", [None, DIFFERENCE])
def test_slates_are_served_by_what_they_add(market_folder: Path, objective: str | None) -> None:
    """The second objective is a difference that can be negative."""
    bundle = market_folder / f"bundle-{objective is None}"
    chosen = [] if objective is None else [f"bundle.slate.objective='{objective}'"]
    run_command(
        "export.py", f"run={market_folder}/runs/latest", f"bundle.dir={bundle}", "verify.checkouts=20",
        "verify.golden=4", *chosen,
    )  # fmt: skip
    manifest = read_manifest((bundle / "current").resolve())
    assert manifest["objective"]["expression"] == (objective or "uplift * value")
    assert {task["name"]: task["control"] for task in manifest["tasks"]}["uplift"] == "organic"
    recommender = Recommender.load(bundle, store=bundle / "store.arrow")
    for user in range(10):
        checkout = Checkout(user_id=str(user), basket=[Line("3")], ts=1_712_000_000)
        slate = recommender.recommend(checkout, deadline_ms=1e9)
        predictions = [item.predictions for item in slate.items]
        assert slate.tier == "ranked"
        added = [p["uplift"] * p["value"] for p in predictions if p is not None]
        assert len(added) == 6
        assert added == sorted(added, reverse=True)
        assert all(0 <= p["uplift"] <= 1 - p["organic"] + 1e-6 for p in predictions if p is not None)
