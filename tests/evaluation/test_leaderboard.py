"""The leaderboard of a small run: three files that agree, and seeds that must be seeds."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from evaluation import leaderboard, protocol, scoring
from evaluation.evaluate import evaluate
from exporting.export import up_to_date_version
from serving.storage.bundle import read_manifest
from tests.exporting.bundles import export_config, make_bundle
from training import tracking
from training.pipeline import gather_candidates
from training.stage_folders import read_stage_manifest, write_stage_manifest
from training.trained_run import open_run


@pytest.fixture(scope="module")
def folder(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run with candidates, as `train.py` leaves it."""
    root = tmp_path_factory.mktemp("judged")
    copy = Path(shutil.copytree(run_folder, root / run_folder.name))
    run = open_run(run_folder)
    cfg = OmegaConf.merge(
        run.cfg, {"paths": {"runs": str(root)}, "mlflow": {"tracking_uri": f"sqlite:///{root}/m.db"}}
    )
    OmegaConf.save(cfg, copy / "config.yaml")
    found = gather_candidates(cfg, run.prepared, run.retrieval_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # MLflow puts artifacts below the working folder
        tracked = tracking.start_run(cfg, copy, {})
        write_stage_manifest(
            copy, read_stage_manifest(copy) | {"candidates": str(found), "mlflow_run_id": tracked}
        )
        yield copy


def test_the_three_files_agree(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / leaderboard.HEALTH_FILE).write_text(json.dumps({"gates": {"click": [0.5, 0.5]}, "alarms": []}))
    rows = leaderboard.build_leaderboard([open_run(folder)], "test", with_gbdt=True, out=tmp_path)
    (folder / leaderboard.HEALTH_FILE).unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "report.json", "leaderboard.json"}
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["leaderboard"] == json.loads((tmp_path / "leaderboard.json").read_text())
    assert len(report["leaderboard"]) == len(rows)
    ours = {(r["system"], r["order"]): r for r in rows if r["slice"] == "all"}
    ends = {r["revenue_weight"]: r for r in report["frontier"] if r["system"] == scoring.SYSTEM_NAME}
    for weight, order in ((0.0, "purchase"), (1.0, "value")):
        assert ends[weight]["ndcg6"] == pytest.approx(ours[scoring.SYSTEM_NAME, order]["ndcg6"])
        assert ends[weight]["revenue6"] == pytest.approx(ours[scoring.SYSTEM_NAME, order]["revenue6"])
    assert {r["system"] for r in report["heads"]} == {scoring.SYSTEM_NAME, leaderboard.GBDT_BASELINE}
    # The difference is that of the means.
    for metric, order in (("ndcg6", "purchase"), ("revenue6", "value")):
        (row,) = (
            r
            for r in report["differences"]
            if (r["to"], r["slice"], r["metric"]) == ("LightGBM", "all", metric)
        )
        gap = ours[scoring.SYSTEM_NAME, order][metric] - ours["LightGBM", order][metric]
        assert row["difference"] == pytest.approx(gap)
        assert row["low"] <= row["difference"] <= row["high"]
    page = (tmp_path / "index.html").read_text()
    assert "LightGBM" in page
    assert "Was training healthy?" in page
    for item in report["examples"][0]["shown"]:
        assert item["title"] in page
    printed = capsys.readouterr().out
    assert "two towers alone" in printed
    assert "Purchases against revenue" in printed


def test_lightgbm_is_fitted_once_beside_several_seeds(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder)
    other = run._replace(cfg=OmegaConf.merge(run.cfg, {"seed": run.cfg.seed + 1}))
    rows = leaderboard.build_leaderboard([run, other], "test", with_gbdt=True, out=tmp_path)
    for name, seeds in ((scoring.SYSTEM_NAME, 2), (leaderboard.GBDT_BASELINE, 1)):
        found = [r for r in rows if (r["system"], r["slice"], r["order"]) == (name, "all", "purchase")]
        assert len({r["seed"] for r in found}) == len(found) == seeds
    against = {r["to"] for r in json.loads((tmp_path / "report.json").read_text())["differences"]}
    assert leaderboard.GBDT_BASELINE in against


def test_trees_learn_from_a_weighted_sample_of_too_many_pairs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(folder)
    proxy = run.prepared._replace(meta={**run.prepared.meta, "click": "leaf_category_proxy"})
    cfg = OmegaConf.merge(run.cfg, {"ranker": {"train": {"negative_sampling_rate": 0.01}}})
    run = run._replace(cfg=cfg, prepared=proxy)  # of a shop with impressions all that was shown is kept
    whole = scoring.build_pairs(run, "train", for_training=True)
    monkeypatch.setattr(scoring, "MOST_PAIRS", len(whole.item) // 4)
    part = scoring.build_pairs(run, "train", for_training=True)
    assert len(part.item) < len(whole.item)
    assert part.purchase.sum() == whole.purchase.sum() > 0
    assert part.weight.sum() == pytest.approx(whole.weight.sum(), rel=0.1)
    judged = scoring.build_pairs(run, "train", for_training=False)
    assert len(judged.item) > len(part.item)  # what is ranked is never sampled


def test_examples_follow_their_rule(folder: Path, tmp_path: Path) -> None:
    run = open_run(folder)
    leaderboard.build_leaderboard([run], "test", with_gbdt=False, out=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    data = protocol.load_split(run.prepared.folder, "test")
    found = report["examples"]
    assert len({example["user"] for example in found}) == len(found) > 2
    for example in found:
        (place,) = ((data.user_id == example["user"]) & (data.ts == example["ts"])).nonzero()[0]
        assert data.purchases.offsets[place] < data.purchases.offsets[place + 1]
        assert len({item["title"] for item in example["shown"]}) == 6
        bought = sum(item["bought"] for item in example["shown"])
        after = data.purchases.offsets[place + 1] - data.purchases.offsets[place]
        assert bought + len(example["missed"]) + example["missed_more"] == after
        if example["kind"] == "Nothing of the six":
            assert bought == 0
        if example["kind"] == "Bought for the first time":
            assert bought > 0
    again = tmp_path / "again"
    leaderboard.build_leaderboard([run], "test", with_gbdt=False, out=again)
    assert json.loads((again / "report.json").read_text())["examples"] == found


def test_a_bundle_holds_the_calibration_of_its_run(folder: Path, tmp_path: Path) -> None:
    unknown = make_bundle(folder, tmp_path / "bundle")
    assert read_manifest(unknown)["calibration"] is None
    evaluate(folder)
    client = tracking.make_client(open_run(folder).cfg)
    attached = {file.path for file in client.list_artifacts(read_stage_manifest(folder)["mlflow_run_id"])}
    assert attached == {"index.html", "report.json", "leaderboard.json"}
    cfg = export_config(folder, tmp_path / "bundle", "bundle.force=false")
    assert up_to_date_version(tmp_path / "bundle", folder, cfg) is None  # there is something new to say
    version = make_bundle(folder, tmp_path / "bundle")
    assert up_to_date_version(tmp_path / "bundle", folder, cfg) == version.resolve()
    found = read_manifest(version)["calibration"]
    assert found["split"] == "test"
    heads = {row["head"]: row for row in found["slices"] if row["group"] == "all"}
    assert 0 <= heads["purchase"]["ece"] <= 1
    assert heads["purchase"]["pairs"] == heads["click"]["pairs"] > heads["value"]["pairs"] > 0
    assert {row["group"] for row in found["slices"]} >= {"source", "price", "popularity"}


def test_only_seeds_of_one_config_are_averaged(folder: Path) -> None:
    run = open_run(folder)

    def changed(**keys: object):
        return run._replace(
            cfg=OmegaConf.merge(run.cfg, OmegaConf.from_dotlist([f"{k}={v}" for k, v in keys.items()]))
        )

    assert (
        leaderboard.seed_mismatch([run, changed(seed=1), changed(**{"seed": 2, "trainer.progress": False})])
        is None
    )
    assert leaderboard.seed_mismatch([run, run]) == "a seed occurs twice: give each run once"
    other = changed(**{"seed": 1, "ranker.train.epochs": 9})
    assert "differ in ranker.train.epochs" in (leaderboard.seed_mismatch([run, other]) or "")
