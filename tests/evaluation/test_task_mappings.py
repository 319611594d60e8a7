"""Runs of one task, of four, and of several windows are evaluated as the default three are."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation import calibration_slices, protocol, scoring, simulated, slates
from evaluation.evaluate import evaluate, is_evaluated
from evaluation.leaderboard import build_leaderboard
from evaluation.objective import open_objective
from evaluation.task_quality import task_metrics
from tests.data.shop import add_returns_and_carts, write_shop
from tests.exporting.bundles import make_run_of_shop
from training import tracking
from training.candidates_stage import gather_candidates
from training.errors import ConfigError
from training.stage_folders import read_stage_manifest, write_stage_manifest
from training.trained_run import Run, open_run

RETURNS = "purchase * value * (1 - return)"
MAPPINGS: dict[str, list[str]] = {
    "returns": ["tasks=returns", f"slate.objective='{RETURNS}'"],
    "purchase_only": ["tasks=purchase_only"],
    "windows": [
        "tasks=cart",
        "+tasks.purchase_7d={kind: binary, label: purchase, window: 7d, given: click}",
        "+tasks.units={kind: count, label: quantity, given: purchase}",
        "slate.objective='purchase * units / (1 + price)'",
    ],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shop(tmp_path_factory.mktemp("shop"), users=40, items=80, days=90, events=True)
    add_returns_and_carts(folder)
    return folder


@pytest.fixture(scope="module", params=MAPPINGS)
def run(
    request: pytest.FixtureRequest, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run with candidates and its entry in MLflow."""
    root = tmp_path_factory.mktemp(request.param)
    overrides = [*MAPPINGS[request.param], f"mlflow.tracking_uri=sqlite:///{root}/m.db"]
    folder = make_run_of_shop(root, shop, *overrides)
    opened = open_run(folder)
    candidates = gather_candidates(opened.cfg, opened.prepared, opened.retrieval_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # MLflow puts artifacts below the working folder
        run_id = tracking.start_run(opened.cfg, folder, {})
        manifest = {"candidates": str(candidates), "mlflow_run_id": run_id}
        write_stage_manifest(folder, read_stage_manifest(folder) | manifest)
        yield open_run(folder)


def test_the_report_has_every_task(run: Run, tmp_path: Path) -> None:
    build_leaderboard([run], "test", with_gbdt=True, out=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    names = [task.name for task in run.tasks]
    ours = {row["task"]: row for row in report["task_metrics"] if row["system"] == scoring.SYSTEM_NAME}
    assert list(ours) == names == [task["name"] for task in report["tasks"]]
    for task in run.tasks:
        assert ours[task.name]["positives"] > 0
        assert ("auc" in ours[task.name]) == task.is_binary
        assert any(row["task"] == task.name for row in report["calibration"])
    orders = {row["order"] for row in report["leaderboard"] if row["system"] == scoring.SYSTEM_NAME}
    has_spend = any(task.label_key == "spend" for task in run.tasks)
    assert ("value" in orders) == has_spend
    assert report["objective"]["order"] in orders
    frontier = {row["system"] for row in report["frontier"]}
    assert (scoring.SYSTEM_NAME in frontier) == open_objective(run).reads_amount
    page = (tmp_path / "index.html").read_text()
    assert all(f'<td class="text">{name}</td>' in page for name in names)


def test_the_examples_have_the_outputs_that_the_objective_reads(run: Run, tmp_path: Path) -> None:
    build_leaderboard([run], "test", with_gbdt=False, out=tmp_path)
    for example in json.loads((tmp_path / "report.json").read_text())["examples"]:
        for item in example["shown"]:
            assert list(item["predictions"]) == [task.name for task in run.tasks]
            if open_objective(run).expression != RETURNS:
                continue
            outputs = item["predictions"]
            assert item["value"] == pytest.approx(outputs["purchase"] * outputs["value"], rel=1e-5)
        if open_objective(run).expression == RETURNS:
            scores = [item["value"] * (1 - item["predictions"]["return"]) for item in example["shown"]]
            assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("run", ["purchase_only"], indirect=True)
def test_another_objective_is_another_evaluation(run: Run) -> None:
    file = run.folder / "config.yaml"
    evaluate(run.folder)
    assert is_evaluated(run.folder)
    cfg = OmegaConf.load(file)
    OmegaConf.save(OmegaConf.merge(cfg, {"slate": {"objective": "purchase ** 2"}}), file)
    try:
        assert not is_evaluated(run.folder)
        evaluate(run.folder)
        assert is_evaluated(run.folder)
        report = json.loads((run.folder / "evaluation-test" / "report.json").read_text())
        assert report["objective"] == {"expression": "purchase ** 2", "order": "objective"}
    finally:
        OmegaConf.save(cfg, file)


def test_an_objective_of_an_unknown_column_is_refused(run: Run) -> None:
    cfg = OmegaConf.merge(run.cfg, {"slate": {"objective": "purchase * prise"}})
    with pytest.raises(ConfigError, match="no task or numeric item column prise, did you mean price"):
        open_objective(run._replace(cfg=cfg))


def test_a_split_without_positives_is_reported_as_such(run: Run) -> None:
    data = protocol.load_split(run.prepared.folder, "test")
    scored = scoring.score_split(run, "test")
    scored = scored._replace(labels=scored.labels * 0)
    rows = task_metrics(scored, run.tasks)
    assert all(row["positives"] == 0 and "auc" not in row for row in rows)
    observed = scoring.observed_candidates(scored)
    assert calibration_slices.reliability_curves(observed, run.tasks, data, run.catalog) == []
    measured = calibration_slices.calibration_rows(observed, run.tasks, data, run.catalog)
    assert {row["task"] for row in measured} == {
        task.name for task in run.tasks if task.given is None or (task.is_binary and task.joint)
    }


def test_the_policies_of_a_run_are_measured(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert slates.main([str(run.folder)]) == 0
    output = capsys.readouterr().out
    assert f"objective: {open_objective(run).expression}" in output
    assert ("Purchases against revenue" in output) == open_objective(run).reads_amount


def test_the_simulators_truth_needs_its_three_labels(run: Run) -> None:
    scored = scoring.score_split(run, "validation")
    labels = {task.label_key for task in run.tasks}
    if labels >= set(simulated.TRUE_LABELS):
        predictions = simulated.predictions_of(run, scored)
        assert (predictions.purchase.if_seen <= predictions.click.if_seen).all()
    else:
        with pytest.raises(ConfigError, match="has no task with the label click, spend"):
            simulated.predictions_of(run, scored)
