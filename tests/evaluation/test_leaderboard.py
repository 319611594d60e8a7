"""The leaderboard of a small run: three files that agree, and runs that must be seeds of one config."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation import frequency, leaderboard, protocol, scoring
from evaluation.evaluate import evaluate, is_evaluated
from exporting.export import up_to_date_version
from serving.storage.bundle import read_manifest
from tests.exporting.bundles import export_config, make_bundle
from training import tracking
from training.candidates_stage import gather_candidates
from training.run_files import save_run_config
from training.stage_folders import read_stage_manifest, write_stage_manifest
from training.trained_run import open_run


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with candidates, as `train.py` writes it."""
    root = tmp_path_factory.mktemp("evaluated")
    copy = Path(shutil.copytree(run_folder, root / run_folder.name))
    run = open_run(run_folder)
    cfg = OmegaConf.merge(
        run.cfg, {"paths": {"runs": str(root)}, "mlflow": {"tracking_uri": f"sqlite:///{root}/m.db"}}
    )
    save_run_config(cfg, copy)
    candidates = gather_candidates(cfg, run.prepared, run.retrieval_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # a mistake that writes to the working folder stays here
        run_id = tracking.start_run(cfg, copy, {})
        manifest = {"candidates": str(candidates), "mlflow_run_id": run_id}
        write_stage_manifest(copy, read_stage_manifest(copy) | manifest)
        yield copy


def test_the_three_files_agree(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / leaderboard.HEALTH_FILE).write_text(json.dumps({"gates": {"click": [0.5, 0.5]}, "alarms": []}))
    rows = leaderboard.build_leaderboard([open_run(folder)], "test", with_gbdt=True, out=tmp_path)
    (folder / leaderboard.HEALTH_FILE).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "report.json", "leaderboard.json"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["leaderboard"] == json.loads((tmp_path / "leaderboard.json").read_text())
    assert len(report["leaderboard"]) == len(rows)
    by_system = {(r["system"], r["order"]): r for r in rows if r["slice"] == "all"}
    frontier = {r["revenue_weight"]: r for r in report["frontier"] if r["system"] == scoring.SYSTEM_NAME}
    for weight, order in ((0.0, "purchase"), (1.0, "value")):
        assert frontier[weight]["ndcg6"] == pytest.approx(by_system[scoring.SYSTEM_NAME, order]["ndcg6"])
        assert frontier[weight]["revenue6"] == pytest.approx(
            by_system[scoring.SYSTEM_NAME, order]["revenue6"]
        )
    assert {r["system"] for r in report["task_metrics"]} == {scoring.SYSTEM_NAME, leaderboard.GBDT_BASELINE}
    # The difference is that of the means.
    for metric, order in (("ndcg6", "purchase"), ("revenue6", "value")):
        (row,) = (
            r
            for r in report["differences"]
            if (r["to"], r["slice"], r["metric"]) == ("LightGBM", "all", metric)
        )
        gap = by_system[scoring.SYSTEM_NAME, order][metric] - by_system["LightGBM", order][metric]
        assert row["difference"] == pytest.approx(gap)
        assert row["low"] <= row["difference"] <= row["high"]
    page = (tmp_path / "index.html").read_text()
    assert "LightGBM" in page
    assert "Was training healthy?" in page
    for item in report["examples"][0]["shown"]:
        assert item["title"] in page
    output = capsys.readouterr().out
    assert "two towers alone" in output
    assert "Purchases against revenue" in output


def test_lightgbm_is_fitted_once_for_several_seeds(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder)
    second_seed = run._replace(cfg=OmegaConf.merge(run.cfg, {"seed": run.cfg.seed + 1}))
    rows = leaderboard.build_leaderboard([run, second_seed], "test", with_gbdt=True, out=tmp_path)
    for name, n_seeds in ((scoring.SYSTEM_NAME, 2), (leaderboard.GBDT_BASELINE, 1)):
        seeds = [
            r["seed"] for r in rows if (r["system"], r["slice"], r["order"]) == (name, "all", "purchase")
        ]
        assert len(set(seeds)) == len(seeds) == n_seeds
    compared = {r["to"] for r in json.loads((tmp_path / "report.json").read_text())["differences"]}
    assert leaderboard.GBDT_BASELINE in compared


def test_lightgbm_learns_from_a_weighted_sample_of_too_many_pairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(folder)
    proxy = run.prepared._replace(meta={**run.prepared.meta, "click": "leaf_category_proxy"})
    cfg = OmegaConf.merge(run.cfg, {"ranker": {"train": {"negative_sampling_rate": 0.01}}})
    run = run._replace(cfg=cfg, prepared=proxy)  # impressions are never sampled
    every = scoring.training_pairs(run, "train")
    monkeypatch.setattr(scoring, "MAX_TRAINING_PAIRS", len(every.item) // 4)
    sampled = scoring.training_pairs(run, "train")
    assert len(sampled.item) < len(every.item)
    assert sampled.purchase.sum() == every.purchase.sum() > 0
    assert sampled.weight.sum() == pytest.approx(every.weight.sum(), rel=0.1)
    assert len(scoring.proposed_pairs(run, "train").item) > len(sampled.item)  # never sampled


def test_examples_follow_their_rule(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder)
    leaderboard.build_leaderboard([run], "test", with_gbdt=False, out=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    data = protocol.load_split(run.prepared.folder, "test")
    examples = report["examples"]
    assert len({example["user"] for example in examples}) == len(examples) > 2
    for example in examples:
        (row,) = ((data.user_id == example["user"]) & (data.ts == example["ts"])).nonzero()[0]
        n_purchases = data.purchases.offsets[row + 1] - data.purchases.offsets[row]
        assert n_purchases > 0
        assert len({item["title"] for item in example["shown"]}) == 6
        bought = sum(item["bought"] for item in example["shown"])
        assert bought + len(example["missed"]) + example["missed_more"] == n_purchases
        if example["kind"] == "Nothing of the six":
            assert bought == 0
        if example["kind"] == "Bought for the first time":
            assert bought > 0
    again = tmp_path / "again"
    leaderboard.build_leaderboard([run], "test", with_gbdt=False, out=again)
    assert json.loads((again / "report.json").read_text())["examples"] == examples


def test_a_bundle_holds_the_calibration_of_its_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_manifest(make_bundle(folder, tmp_path / "bundle"))["calibration"] is None
    evaluate(folder, by=["users.city", "items.brand"])
    assert is_evaluated(folder, by=["users.city"])
    assert not is_evaluated(folder, by=["users.age"])
    page = (folder / "evaluation-test" / "index.html").read_text()
    assert "By users.city, NDCG@6 runs from" in page
    assert "By items.brand, slates by purchase * value" in capsys.readouterr().out
    client = tracking.make_client(open_run(folder).cfg)
    attached = {file.path for file in client.list_artifacts(read_stage_manifest(folder)["mlflow_run_id"])}
    assert attached == {"index.html", "report.json", "leaderboard.json"}
    cfg = export_config(folder, tmp_path / "bundle", "bundle.force=false")
    assert up_to_date_version(tmp_path / "bundle", folder, cfg) is None  # it lacks the calibration
    version = make_bundle(folder, tmp_path / "bundle")
    assert up_to_date_version(tmp_path / "bundle", folder, cfg) == version.resolve()
    calibration = read_manifest(version)["calibration"]
    assert calibration["split"] == "test"
    tasks = {row["task"]: row for row in calibration["slices"] if row["group"] == "all"}
    assert 0 <= tasks["purchase"]["ece"] <= 1
    assert tasks["purchase"]["pairs"] == tasks["click"]["pairs"] > tasks["value"]["pairs"] > 0
    assert {row["group"] for row in calibration["slices"]} >= {"source", "price", "popularity"}


def test_the_cost_of_frequency_caps(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert frequency.main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "objective: purchase * value"
    caps = ("none", "1 in 7d", "2 in 7d", "3 in 7d", "1 in 14d", "2 in 14d", "3 in 14d", "1 in 28d")
    assert all(any(line.lstrip().startswith(cap) for line in lines) for cap in caps)


def test_only_seeds_of_one_config_are_averaged(folder: Path) -> None:
    run = open_run(folder)

    def with_settings(*settings: str):
        return run._replace(cfg=OmegaConf.merge(run.cfg, OmegaConf.from_dotlist([*settings])))

    seeds = [run, with_settings("seed=1"), with_settings("seed=2", "trainer.progress=false")]
    assert leaderboard.seed_mismatch(seeds) is None
    assert leaderboard.seed_mismatch([run, run]) == "a seed occurs twice: give each run once"
    different = with_settings("seed=1", "ranker.train.epochs=9")
    assert "differ in ranker.train.epochs" in (leaderboard.seed_mismatch([run, different]) or "")
