"""From a shop's CSV files to a slate, with the commands of the README."""

import json
import sqlite3
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from data.io.batches import read_batches
from models.jagged import segment_ids
from tests.data.shop import write_shop
from tests.end_to_end.commands import command, finished, train_arguments
from training.item_scores import ItemScores
from training.retrieval_stage import load_query_tower, towers_of_split
from training.run_files import load_run_weights
from training.stage_folders import read_stage_manifest
from training.trained_run import open_run


def check_towers_continue(folder: Path) -> None:
    """The towers that serve learned from all that was known before the test split, those before from less."""
    run = open_run(folder / "runs" / "latest")
    splits = ("train", "validation", "test")
    folders = [towers_of_split(run.retrieval_folder, split) for split in splits]
    assert [towers.name.split("-")[0] for towers in folders] == ["retrieval", "towers", "refit"]
    rows = [read_stage_manifest(towers)["rows"] for towers in folders]
    n_train = pq.read_metadata(run.prepared.folder / "examples" / "train.parquet").num_rows
    assert rows[0] < n_train == rows[1] < rows[2]
    mask = "item_encoder.trained_mask"
    for before, after in pairwise(load_run_weights(towers) for towers in folders):
        assert any(not torch.equal(before[name], after[name]) for name in after)
        assert (before[mask] <= after[mask]).all()
    for split, towers in zip(splits, folders, strict=True):
        (batch, *_) = read_batches(run.candidates_folder / f"{split}.parquet", 16)
        tower, catalog = load_query_tower(run.cfg, run.prepared, towers)
        scores = ItemScores(catalog, tower.n_sales)(tower(batch.query, catalog.vectors), batch.query.snapshot)
        score = scores[segment_ids(batch.candidates.offsets), batch.candidates.item]
        torch.testing.assert_close(score, batch.candidates.score, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "events",
    [
        pytest.param(False, id="orders and items only", marks=pytest.mark.slow),
        pytest.param(True, id="with users and click logs"),
    ],
)
def test_from_csv_to_slate(tmp_path: Path, events: bool) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    write_shop(shop, events=events)
    if not events:
        (shop / "users.csv").unlink()

    trained = command(*train_arguments(tmp_path, shop, "logger=mlflow"))
    assert trained.returncode == 0, trained.stderr[-3000:]
    check_towers_continue(tmp_path)
    assert f"click label: {'logged' if events else 'leaf_category_proxy'}" in trained.stdout
    manifest = finished(tmp_path, "ranker")
    run = tmp_path / "runs" / "latest"
    assert (run / "config.yaml").is_file()
    rows = json.loads((run / "evaluation-test" / "leaderboard.json").read_text())
    assert {(row["system"], row["order"]) for row in rows} >= {("sextet", "purchase"), ("sextet", "value")}

    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        logged = dict(
            database.execute(
                "select key, value from latest_metrics where run_uuid = ?", [manifest["mlflow_run_id"]]
            )
        )
        tags = dict(
            database.execute("select key, value from tags where run_uuid = ?", [manifest["mlflow_run_id"]])
        )
        parameters = dict(
            database.execute("select key, value from params where run_uuid = ?", [manifest["mlflow_run_id"]])
        )
    assert {"ranker/val_purchase_auc", "retrieval/recall_300", "test/all/purchase/ndcg6"} <= set(logged)
    assert {"git_commit", "data"} <= set(tags)
    assert parameters["ranker.train.epochs"] == "2"

    repeated = command(*train_arguments(tmp_path, shop, "logger=mlflow"))
    assert repeated.returncode == 0, repeated.stderr[-3000:]
    assert "reused" in repeated.stdout
    # The figures of validation and test, and the page.
    figures = trained.stdout.splitlines()[-4:]
    assert repeated.stdout.splitlines()[-4:] == figures
    assert figures[0] == "slates sorted by expected value:"
    assert [line.split("ndcg6=")[0] for line in figures[1:3]] == ["validation/", "test/"]
    assert Path(figures[3].removeprefix("page: ")).is_file()
    assert finished(tmp_path, "ranker") == manifest

    exported = command("export.py", f"run={run}", f"bundle.dir={tmp_path}/bundle")
    assert exported.returncode == 0, exported.stderr[-3000:]
    recommended = command(
        "-m",
        "serving",
        "recommend",
        "--bundle",
        f"{tmp_path}/bundle",
        "--user",
        "u003",
        "--items",
        "i001,i009",
        "--json",
    )
    assert recommended.returncode == 0, recommended.stderr[-3000:]
    slate = json.loads(recommended.stdout)
    ids = [item["item_id"] for item in slate["items"]]
    assert len(ids) == len(set(ids)) == 6
    assert slate["tier"] == "ranked"
    demo = command("demo.py", "--run", str(run), "--bundle", f"{tmp_path}/bundle", "--checkouts", "1")
    assert demo.returncode == 0, demo.stderr[-3000:]
    assert "Six more (ranked" in demo.stdout
