"""What a bundle holds, and that nothing is published that fails a check."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import exporting.assemble
import exporting.bundle
import exporting.export
from exporting import verification
from exporting.bundle import items_table, write_arrow, write_items, write_store
from exporting.exportable_run import ExportError, find_run, load_exportable_run
from exporting.index.build import SearchMetrics
from exporting.slate_objective import read_objective
from models.embeddings import unpack_int8
from models.schema import SNAPSHOT_FIELDS, Catalog
from serving.storage.bundle import REQUIRED_FILES, open_bundle
from serving.stores.arrow import ArrowStore
from tests.exporting.bundles import export_config, load_config, make_bundle, make_run
from training.trained_run import open_run


def contents(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def test_the_bundle_is_complete(run_folder: Path, version: Path) -> None:
    further = ("copurchase.arrow", "index.faiss", "schema.json", "manifest.json")
    assert contents(version) == {*REQUIRED_FILES, *further}
    assert contents(version.parent) == {version.name, "current", "store.arrow"}
    assert os.readlink(version.parent / "current") == version.name
    manifest = json.loads((version / "manifest.json").read_text())
    assert manifest["version"] == version.name
    assert manifest["metric"] == "inner_product"
    assert manifest["index"]["recall"] >= 0.95
    assert manifest["export"]["parity"]["errors"]["purchase"] < verification.MAX_PROBABILITY_ERROR
    assert manifest["run"]["mlflow_run_id"] == ""
    assert manifest["metrics"]["ranker"] == {"val_loss": 1.0}
    assert manifest["data"]["click_label"] == "logged"
    assert {"torch", "torchrec", "numpy"} <= manifest["versions"].keys()


def test_items_match_the_catalog(run_folder: Path, version: Path) -> None:
    run, bundle = load_exportable_run(run_folder), open_bundle(version)
    latest = run.catalog._replace(**{name: getattr(run.catalog, name)[-1:] for name in SNAPSHOT_FIELDS})
    for name, served, expected in zip(Catalog._fields, bundle.catalog, latest, strict=True):
        assert served.dtype == expected.dtype, name
        assert torch.equal(served, expected), name
    items = items_table(run)
    assert items["item_id"][0].as_py() == ""
    assert items["fallback_rank"][0].as_py() == -1
    rank, orders = (np.array(items[name].to_numpy()) for name in ("fallback_rank", "orders_28d"))
    available = np.flatnonzero(rank >= 0)
    assert set(available) == set(np.flatnonzero(run.catalog.available.numpy()))
    assert (np.diff(orders[available[np.argsort(rank[available])]]) <= 0).all()
    assert (rank[bundle.items_by_popularity] == np.arange(len(available))).all()
    by_leaf = sorted(available.tolist(), key=lambda row: (bundle.leaf[row], rank[row]))
    assert bundle.items_by_leaf.tolist() == by_leaf


def test_an_id_of_two_items_is_refused(run_folder: Path, tmp_path: Path) -> None:
    run = load_exportable_run(run_folder)
    ids = run.items["item_id"].to_pylist()
    repeated = pa.array([*ids[:7], ids[3], *ids[8:]])
    column = run.items.column_names.index("item_id")
    objective = read_objective(run, load_config("export").bundle)
    with pytest.raises(ExportError, match=rf"rows 3 and 7 have one item id, '{ids[3]}'.*prepare again"):
        write_items(
            run._replace(items=run.items.set_column(column, "item_id", repeated)), objective, tmp_path
        )


def test_the_index_answers_with_available_item_rows(version: Path) -> None:
    bundle = open_bundle(version)
    index, vectors = faiss.read_index(str(version / "index.faiss")), unpack_int8(bundle.catalog[-1]).numpy()
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    assert index.ntotal == bundle.available.sum()
    row = int(np.flatnonzero(bundle.available)[3])
    assert index.search(vectors[row : row + 1], 1)[1][0, 0] == row


def test_the_store_holds_every_user(run_folder: Path, version: Path, tmp_path: Path) -> None:
    prepared = load_exportable_run(run_folder).prepared
    raw = pq.read_table(prepared.folder / "user_histories.parquet").to_pylist()
    store = ArrowStore.open(version.parent / "store.arrow")
    assert len(store) == len(raw)
    for row in raw:
        history = store.get(row["user_id"])
        assert [*history.item_id] == row["item_id"]
        assert history.ts.tolist() == row["ts"]
        assert history.price.tolist() == row["price"]
        assert list(history.profile.values()) == row["profile_values"]
    assert store.get("nobody").item_id[:] == []
    assert store.get("").item_id[:] == []
    # A store without users, and one that is not sorted yet.
    table = pq.read_table(prepared.folder / "user_histories.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "user_histories.parquet")
    assert write_store(tmp_path, load_exportable_run(run_folder).schema, tmp_path / "none.arrow") == 0
    assert ArrowStore.open(tmp_path / "none.arrow").get("u001").item_id[:] == []
    table = pq.read_table(prepared.folder / "user_histories.parquet")
    pq.write_table(table.take(pa.array(np.arange(len(table))[::-1])), tmp_path / "user_histories.parquet")
    write_store(tmp_path, load_exportable_run(run_folder).schema, tmp_path / "store.arrow")
    assert ArrowStore.open(tmp_path / "store.arrow").get(raw[7]["user_id"]).item_id[:] == raw[7]["item_id"]


def test_a_second_export_moves_current_and_keeps_the_first(run_folder: Path, tmp_path: Path) -> None:
    first = make_bundle(run_folder, tmp_path / "bundle")
    older = first.rename(first.with_name("19990101T000000Z-00000000"))
    second = make_bundle(run_folder, tmp_path / "bundle", "bundle.slate.revenue_weight=0")
    assert older.is_dir()
    assert (tmp_path / "bundle" / "current").resolve() == second.resolve()
    assert json.loads((second / "manifest.json").read_text())["slate"]["revenue_weight"] == 0


@pytest.mark.parametrize("families", ["[ivf_pq]", "[flat,ivf_sq8,ivf_sqfp16,ivf_pq,ivf_rabitq,hnsw_sq8]"])
def test_a_tuned_index_serves_and_says_why(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, families: str
) -> None:
    """The golden requests replay on load, through whatever index was chosen."""
    monkeypatch.setattr("exporting.index.tuning.MIN_ITEMS_FOR_LISTS", 1)
    version = make_bundle(run_folder, tmp_path, "index=auto", f"index.families={families}")
    entry = json.loads((version / "manifest.json").read_text())["index"]
    assert entry["recall"] >= entry["targets"]["recall"] == 0.98
    assert {"system", "params", "recall", "p50_ms", "bytes_per_vector"} <= entry["pareto"][0].keys()
    assert (version / "index.html").is_file() == ("," in families)
    bundle = open_bundle(version)
    assert bundle.index.search_params.probes == entry["probes"]
    if families == "[ivf_pq]":
        assert bundle.index.search_params.refine_factor > 1


def assert_refused(run: Path, root: Path, reason: str) -> None:
    """The export fails for this reason and does not change the bundle root."""
    before = contents(root), os.readlink(root / "current")
    with pytest.raises(ExportError, match=reason):
        exporting.export.export(export_config(run, root))
    assert (contents(root), os.readlink(root / "current")) == before


@pytest.fixture
def root(version: Path, tmp_path: Path) -> Path:
    """A bundle root with a published version."""
    return Path(shutil.copytree(version.parent, tmp_path / "bundle", symlinks=True))


def test_low_recall_is_refused(run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporting.index.build.measure_search", lambda *_: SearchMetrics(0.94, 1.0, 1.0))
    assert_refused(run_folder, root, r"recall@300 of the index is 0.9400.*index.recall or")


@pytest.mark.parametrize(
    ("task", "error"), [("click", 0.01), ("purchase", 0.003), ("value", 0.05), ("click", float("nan"))]
)
def test_a_lack_of_parity_is_refused(
    run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch, task: str, error: float
) -> None:
    measure_parity = verification.measure_parity

    def measure_worse_parity(*arguments: Any) -> verification.Parity:
        parity = measure_parity(*arguments)
        return replace(parity, errors=parity.errors | {task: error})

    monkeypatch.setattr(verification, "measure_parity", measure_worse_parity)
    assert_refused(run_folder, root, f"{task} differs from the training model by up to")


def test_parity_sees_a_changed_weight(run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_parity = verification.measure_parity

    def measure_parity_of_changed_run(run, *arguments):
        run.ranker.calibration.shift.data += 0.1
        return measure_parity(run, *arguments)

    monkeypatch.setattr(verification, "measure_parity", measure_parity_of_changed_run)
    assert_refused(run_folder, root, "click differs")


def test_parity_sees_a_changed_catalog(run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices that only the bundle has change its golden slates or its predictions."""

    def double_prices(run):
        table = items_table(run)
        price = pa.array(np.array(table["price"].to_numpy()) * 2)
        return table.set_column(table.column_names.index("price"), "price", price)

    monkeypatch.setattr(exporting.bundle, "items_table", double_prices)
    assert_refused(run_folder, root, "differs from the training model|serving refuses")


def test_a_golden_slate_that_differs_is_refused(
    run_folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_swapped(table: pa.Table, file: Path) -> None:
        if file.name == "golden.arrow":
            slates = [[*slate[1::-1], *slate[2:]] for slate in table["slate"].to_pylist()]
            table = table.set_column(1, "slate", pa.array(slates))
        write_arrow(table, file)

    monkeypatch.setattr(exporting.assemble, "write_arrow", write_swapped)
    assert_refused(run_folder, root, r"golden.arrow: request 0 gives")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("revenue_weight=2", "bundle.slate.revenue_weight is 2: expected a number from 0 to 1"),
        ("category_cap=few", "bundle.slate.category_cap is 'few'"),
        ("margin=true", "bundle.slate.margin or slate.objective reads margin, but no item has a margin"),
    ],
)
def test_a_slate_policy_that_cannot_be_is_refused(
    run_folder: Path, tmp_path: Path, setting: str, reason: str
) -> None:
    with pytest.raises(ExportError, match=reason):
        make_bundle(run_folder, tmp_path, f"bundle.slate.{setting}")
    assert not list(tmp_path.iterdir())


def test_every_policy_passes_its_own_golden_requests(run_folder: Path, tmp_path: Path) -> None:
    settings = (
        "revenue_weight=0.5",
        "category_cap=1",
        "diversity=0.2",
        "product_cap=2",
        "exclude_basket=false",
    )
    settings += ("exclude_bought_within=30d", "repeat_categories=[food]", "frequency_cap=null")
    version = make_bundle(run_folder, tmp_path, *(f"bundle.slate.{setting}" for setting in settings))
    slate = json.loads((version / "manifest.json").read_text())["slate"]
    assert slate | {
        "objective": "purchase * value", "revenue_weight": 0.5, "margin": False, "category_cap": 1,
        "diversity": 0.2, "product_cap": 2, "exclude_basket": False, "exclude_bought_within": "30d",
        "repeat_categories": ["food"], "frequency_cap": None,
    } == slate  # fmt: skip


def test_a_slate_leaves_out_what_the_run_was_trained_to_leave_out(version: Path) -> None:
    slate = json.loads((version / "manifest.json").read_text())["slate"]
    assert slate["exclude_basket"] is True
    assert (slate["exclude_bought_within"], slate["repeat_categories"]) == (None, [])
    assert slate["product_cap"] == 1
    assert slate["frequency_cap"] == {"times": 2, "window": "14d"}


def test_latest_and_best_name_runs(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="run=best: there is no artifacts/runs/best below"):
        find_run("best", "sqlite:///none.db")
    (tmp_path / "artifacts" / "runs").mkdir(parents=True)
    (tmp_path / "artifacts" / "runs" / "latest").symlink_to(run_folder)
    assert find_run("latest", "sqlite:///none.db") == run_folder.resolve()
    assert open_run("latest").folder == run_folder.resolve()


def test_runs_that_cannot_be_exported(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="no such folder"):
        find_run(str(tmp_path / "missing"), "sqlite:///none.db")
    with pytest.raises(ExportError, match=rf"{tmp_path}/artifacts/mlflow.db \(mlflow\.tracking_uri="):
        find_run("0123456789", "sqlite:///artifacts/mlflow.db")
    assert not (tmp_path / "artifacts").exists(), "a look-up creates nothing"
    copy = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (copy / "done.json").unlink()
    with pytest.raises(ExportError, match="not finished"):
        load_exportable_run(copy)
    (copy / "done.json").write_text('{"metrics": {}}')
    with pytest.raises(ExportError, match="retrieval only"):
        load_exportable_run(copy)
    manifest = json.loads((run_folder / "done.json").read_text())
    (copy / "done.json").write_text(json.dumps({**manifest, "retrieval": str(tmp_path / "gone")}))
    with pytest.raises(ExportError, match="is gone"):
        load_exportable_run(copy)
    (copy / "done.json").write_text(json.dumps(manifest))
    torch.save({}, copy / "weights.pt")
    with pytest.raises(ExportError, match="do not fit"):
        load_exportable_run(copy)


def test_fewer_than_six_available_items(tmp_path: Path) -> None:
    run = make_run(tmp_path, events=False)
    items = Path(json.loads((run / "done.json").read_text())["prepared"]) / "items.parquet"
    table = pq.read_table(items)
    available = pa.array([row in (1, 2) for row in range(len(table))])
    pq.write_table(table.set_column(table.column_names.index("available"), "available", available), items)
    with pytest.raises(ExportError, match="2 of 80 items are available, a slate needs 6"):
        load_exportable_run(run)


def test_a_bundle_that_is_up_to_date_is_kept(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def export(*overrides: str) -> Path:
        return exporting.export.export(export_config(run_folder, tmp_path, "bundle.force=false", *overrides))

    first = export()
    assert export() == first
    assert "up to date" in capsys.readouterr().out
    by_purchase = export("bundle.slate.revenue_weight=0")
    assert by_purchase != first
    (by_purchase / "manifest.json").write_text("{}")  # damaged: made anew
    assert export("bundle.slate.revenue_weight=0") != by_purchase
