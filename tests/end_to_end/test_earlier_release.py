"""What the release before wrote: this one exports it, updates it, serves it and retrains from it.

tests/fixtures/release_format_8.tar.xz holds a prepared folder, a finished run, its bundle, a store, an
impression log and the shop's files, as the last release with bundle format 8 wrote them.
"""

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from omegaconf import DictConfig

from data.prepare import prepare
from exporting.export import export
from exporting.updates.update import update_bundle
from operations.retraining.bundle_eval import evaluate_bundle
from operations.retraining.champion import load_champion
from operations.retraining.comparison import REFRESHED, evaluate_champion
from operations.retraining.offline_eval import evaluate_run
from operations.retraining.retrain import DECISIONS_FILE, retrain
from serving import Checkout, Line, Recommender
from serving.storage.bundle import read_manifest, version_folder
from serving.storage.formats import FORMAT_VERSION
from serving.storage.versions import CHALLENGER_FOLDER
from tests.exporting.bundles import load_config
from training.run_files import CONFIG_FILE, WEIGHTS_FILE
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RUN = Path("artifacts/runs/latest")
# What the fixture was trained with: incremental retraining needs it (CHANGELOG.md, Upgrade).
AS_TRAINED = [
    "features.relative=false", "features.scores=[co_purchase,ease]", "features.drop=co_purchase_score_ratio",
    "~retrieval.sources.transitions", "~retrieval.sources.transitions_decay",
    "retrieval.model.item.id_dim=8", "retrieval.model.sales=false",
]  # fmt: skip
LENIENT = ["retrain.gates.quality=0.9", "retrain.gates.calibration=20", "retrain.gates.drift=99"]
CHEAP = ["verify.golden=5", "verify.checkouts=30"]
LONGER = timedelta(days=25)


@pytest.fixture(params=sorted(file.name for file in FIXTURES.glob("release_*.tar.xz")))
def release(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of an earlier release."""
    with tarfile.open(FIXTURES / request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def extend_log(shop: Path) -> None:
    """Repeat the last days of the orders and events of a shop, later."""
    for name in ("orders", "events"):
        with (shop / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        end = max(datetime.fromisoformat(row["ts"]) for row in rows)
        for row in [row for row in rows if datetime.fromisoformat(row["ts"]) > end - LONGER]:
            later = (datetime.fromisoformat(row["ts"]) + LONGER).isoformat()
            rows.append(row | {"order_id": f"later-{row['order_id']}", "ts": later})
        with (shop / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def retrain_config(*overrides: str) -> DictConfig:
    return load_config(
        "retrain", "experiment=debug", "data=tables", "data.root=shop", "prepare.memory_limit=1GB",
        *AS_TRAINED,
        f"mlflow.tracking_uri=sqlite:///{Path.cwd()}/mlflow.db", *CHEAP, *LENIENT, *overrides,
    )  # fmt: skip


def last_decision() -> dict:
    return json.loads(Path("bundle", DECISIONS_FILE).read_text().splitlines()[-1])


def test_the_bundle_serves(release: Path) -> None:
    end = read_manifest(version_folder("bundle"))["data"]["window"]["end"]
    checkout = Checkout(user_id="u001", basket=[Line("i005"), Line("i013")], ts=end)
    slates = [
        Recommender.load("bundle", store=store).recommend(checkout, deadline_ms=60_000)
        for store in ("bundle/store.arrow", "store.sqlite")
    ]
    for slate in slates:
        assert slate.tier == "ranked"
        assert len({item.item_id for item in slate.items}) == 6
        for item in slate.items:
            assert item.predictions.keys() == {"click", "purchase", "value"}
    assert slates[0].items == slates[1].items


def test_the_run_is_evaluated_and_exported_with_its_predictions(release: Path) -> None:
    run, old = open_run(RUN), version_folder("bundle")
    metrics = evaluate_run(run)
    version = export(load_config("export", *CHEAP)).resolve()
    assert version != old
    assert read_manifest(version)["format"] == FORMAT_VERSION
    for folder in (old, version):
        from_bundle = evaluate_bundle(folder, run)
        assert from_bundle.run == folder.name
        np.testing.assert_array_equal(from_bundle.users, metrics.users)
        np.testing.assert_allclose(from_bundle.ndcg, metrics.ndcg, atol=1e-6)
        np.testing.assert_allclose(from_bundle.purchase_probability, metrics.purchase_probability, atol=2e-3)
    assert export(load_config("export", *CHEAP)).resolve() == version, "up to date"


def test_items_are_updated_without_training(release: Path) -> None:
    Path("changes.csv").write_text("item_id,title,category,price\nnew,A new fig,food/fruit/apple,2.5\n")
    old = version_folder("bundle")
    version = update_bundle(Path("bundle"), Path("changes.csv")).resolve()
    assert version_folder("bundle") == version != old
    manifest = read_manifest(version)
    assert manifest["format"] == FORMAT_VERSION
    dims = manifest["dims"]
    assert dims["items"] - dims["spare"] == read_manifest(old)["dims"]["items"] + 1
    assert "new" in set(Recommender.load("bundle").bundle.item_id.to_pylist())


def test_its_impression_log_is_read(release: Path) -> None:
    Path("shop/events.csv").unlink()
    shutil.copytree("log", "shop/events")
    folder = prepare(retrain_config())
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["click"] == "logged"
    assert meta["attribution"]["impression"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_retraining_continues(release: Path, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    champion = version_folder("bundle").name
    extend_log(Path("shop"))
    retrain(retrain_config(f"retrain.mode={mode}"))
    assert f"retraining: {mode}\n" in capsys.readouterr().out
    record = last_decision()
    assert (record["champion"], record["champion_evaluation"]) == (champion, REFRESHED)
    challenger = Path("bundle", CHALLENGER_FOLDER, record["version"])
    assert len(Recommender.load(challenger).recommend(Checkout(user_id="u001", basket=[])).items) == 6


def lose_the_class(run: Path) -> None:
    config = yaml.safe_load((run / CONFIG_FILE).read_text())
    config["ranker"]["multitask"]["_target_"] = "shop_networks.Gone"
    (run / CONFIG_FILE).write_text(yaml.safe_dump(config))


def change_a_shape(run: Path) -> None:
    weights = torch.load(run / WEIGHTS_FILE)
    name = next(name for name in weights if name.startswith(("mixture.", "multitask.")))
    weights[name] = torch.zeros(3, 3)
    torch.save(weights, run / WEIGHTS_FILE)


def lose_the_prepared_folder(run: Path) -> None:
    shutil.rmtree(run / read_stage_manifest(run)["prepared"])


def lose_the_run(run: Path) -> None:
    shutil.rmtree(run)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lose_the_class, change_a_shape, lose_the_prepared_folder, lose_the_run])
def test_a_champion_that_cannot_be_rebuilt_is_judged_from_its_bundle(
    release: Path, damage: Callable[[Path], None]
) -> None:
    shutil.copytree("artifacts", "challenger")
    run = open_run(Path("challenger/runs", RUN.resolve().name))
    damage(RUN.resolve())
    cfg = retrain_config()
    champion = load_champion(Path("bundle"), cfg)
    assert champion is not None
    assert (champion.training is None) == (damage in (lose_the_prepared_folder, lose_the_run))
    metrics, evaluation = evaluate_champion(champion, cfg, run)
    assert evaluation.startswith("evaluated from its bundle, because ")
    assert metrics.run == champion.version
    np.testing.assert_allclose(metrics.ndcg, evaluate_run(run).ndcg, atol=1e-6)


@pytest.mark.slow
def test_a_damaged_champion_is_followed_by_a_full_training(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = version_folder("bundle").name
    change_a_shape(RUN.resolve())
    extend_log(Path("shop"))
    retrain(retrain_config("retrain.mode=incremental"))
    output = capsys.readouterr().out
    assert f"retraining: full (not incremental from {champion}: warm.run: " in output
    assert f"champion {champion}: evaluated from its bundle, because today's code cannot rebuild" in output
    record = last_decision()
    assert record["mode"] == "full"
    assert "train from scratch" in record["mode_reason"]
    gates = {gate["name"] for gate in record["gates"]}
    assert {"calibration slope", "log loss", "drift"} <= gates, "as for a champion that is rebuilt"
