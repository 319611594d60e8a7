"""Items are added, changed and removed in a published bundle, while the version before keeps serving."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from data import item_changes
from exporting import verification
from exporting.bundle import write_arrow
from exporting.export import ITEM_UPDATES_FILE
from exporting.exportable_run import ExportError, load_exportable_run, load_item_tower
from exporting.item_updates import update_run
from exporting.updates.update import DegradationLimits, RunLocation, index_degradation, update_bundle
from models.candidates.sources import CandidateSources
from models.embeddings import unpack_int8
from serving import Checkout, Line, Recommender
from serving.storage.bundle import open_bundle, read_arrow, read_manifest
from serving.storage.formats import FORMAT_VERSION, OLD_COLUMN_NAMES
from tests.data.shop import write_csv
from tests.end_to_end.commands import command
from tests.exporting.bundles import make_bundle, reseal

ITEM_CHANGES: list[dict[str, Any]] = [
    {"item_id": "i003", "price": 9.5},
    {"item_id": "i004", "available": False},
    {"item_id": "i005", "title": "Towel No 4", "category": "home/paper/towel"},
    {
        "item_id": "n000",
        "title": "Milk No 99",
        "category": "food/dairy/milk",
        "brand": "brand1",
        "price": 2.5,
    },
    {"item_id": "n001"},
]


def write_changes(folder: Path, rows: list[dict[str, Any]] = ITEM_CHANGES) -> Path:
    columns = dict.fromkeys(name for row in rows for name in row)
    write_csv(folder / "changes.csv", [{name: row.get(name, "") for name in columns} for row in rows])
    return folder / "changes.csv"


@pytest.fixture
def root(version: Path, tmp_path: Path) -> Path:
    """A bundle root of its own."""
    return Path(shutil.copytree(version.parent, tmp_path / "bundle", symlinks=True))


def test_changed_items_are_served_and_the_version_before_keeps_serving(root: Path, tmp_path: Path) -> None:
    before = (root / "current").resolve()
    reader = Recommender.load(root, root / "store.arrow")
    checkout = Checkout("u001", [Line("i001")], ts=1_712_000_000)
    slate = reader.recommend(checkout, deadline_ms=float("inf"))
    updated = update_bundle(root, write_changes(tmp_path))
    assert updated == (root / "current").resolve() != before
    assert reader.recommend(checkout, deadline_ms=float("inf")).items == slate.items
    assert Recommender.load(before).bundle.version == before.name

    old, new = open_bundle(before), open_bundle(updated)
    assert new.item_id.to_pylist() == [*old.item_id.to_pylist(), "n000", "n001"]
    assert not new.available[new.item_rows.row("i004")]
    assert new.price[[new.item_rows.row("i003"), new.item_rows.row("n000")]] == pytest.approx([9.5, 2.5])
    assert [new.title[new.item_rows.row(i)].as_py() for i in ("i005", "n000", "n001")] == [
        "Towel No 4", "Milk No 99", "n001",
    ]  # fmt: skip
    vectors, old_vectors = (unpack_int8(bundle.catalog[-1]).numpy() for bundle in (new, old))
    changed = [new.item_rows.row(i) for i in ("i003", "i005", "n000", "n001")]
    unchanged = np.delete(np.arange(1, len(vectors)), np.array(changed) - 1)
    np.testing.assert_array_equal(vectors[unchanged], old_vectors[unchanged])
    assert (new.index.search(vectors[changed], 1)[:, 0] == changed).all()
    assert new.item_rows.row("i004") not in new.index.search(vectors[1:], 300)
    manifest = json.loads((updated / "manifest.json").read_text())
    assert manifest["index"]["vectors"] == new.available.sum() == old.available.sum() + 1
    assert manifest["export"]["updated"] == before.name
    assert manifest["dims"]["items"] == len(new.item_id)
    assert ITEM_UPDATES_FILE in manifest["files"]

    recommender = Recommender.load(updated, root / "store.arrow")
    checkout = Checkout("u001", [Line("n000"), Line("i004")])
    slate = recommender.recommend(checkout, deadline_ms=float("inf"))
    assert slate.tier == "ranked"
    assert len(slate.items) == 6
    assert "i004" not in {item.item_id for item in slate.items}


def test_updates_add_up_and_a_removed_item_may_return(root: Path, tmp_path: Path) -> None:
    first = update_bundle(root, write_changes(tmp_path))
    assert update_bundle(root, write_changes(tmp_path)) == first  # no new change
    second = update_bundle(
        root,
        write_changes(
            tmp_path,
            [{"item_id": "i004", "available": True}, {"item_id": "n001", "title": "Soap No 7", "price": 3.0}],
        ),
    )
    bundle = open_bundle(second)
    assert bundle.available[bundle.item_rows.row("i004")]
    assert bundle.title[bundle.item_rows.row("n001")].as_py() == "Soap No 7"
    assert bundle.price[bundle.item_rows.row("i003")] == pytest.approx(9.5)
    assert len(pq.read_table(second / ITEM_UPDATES_FILE)) == len(ITEM_CHANGES)
    vectors = unpack_int8(bundle.catalog[-1]).numpy()
    rows = np.flatnonzero(bundle.available)
    assert (bundle.index.search(vectors[rows], 1)[:, 0] == rows).mean() > 0.95
    # One file with all changes gives the same version: it follows from the run and the updates alone.
    shutil.copy(second / ITEM_UPDATES_FILE, tmp_path / "all.parquet")
    (root / "current").unlink()
    (root / "current").symlink_to(min(path.name for path in root.iterdir() if path.is_dir()))
    at_once = open_bundle(update_bundle(root, tmp_path / "all.parquet"))
    assert at_once.item_id == bundle.item_id
    for actual, expected in zip(at_once.catalog, bundle.catalog, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "family",
    [
        "ivf_sq8",
        "hnsw_sq8",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ivf_pq", "ivf_rabitq")),
    ],
)
def test_every_family_takes_changes(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr("exporting.index.tuning.MIN_ITEMS_FOR_LISTS", 1)
    overrides = ["index.shards=2", f"index.families=[{family}]"]
    make_bundle(run_folder, tmp_path / "bundle", *overrides)
    updated = update_bundle(tmp_path / "bundle", write_changes(tmp_path))
    entry = json.loads((updated / "manifest.json").read_text())["index"]
    assert entry["system"] == family
    assert entry["files"] == ["index-000.faiss", "index-001.faiss"]
    bundle = open_bundle(updated)
    vectors = unpack_int8(bundle.catalog[-1]).numpy()
    rows = np.flatnonzero(bundle.available)
    assert sum(index.ntotal for index in bundle.index.shards) == len(rows)
    neighbours = bundle.index.search(vectors[rows], 300)
    assert bundle.item_rows.row("i004") not in neighbours
    assert (neighbours == rows[:, None]).any(1).mean() > 0.95


def test_the_item_tower_places_changed_items_by_their_new_facts(run_folder: Path, tmp_path: Path) -> None:
    run = load_exportable_run(run_folder)
    rows = list(csv.DictReader((run_folder.parents[1] / "shop" / "items.csv").open()))
    updates = item_changes.read_item_updates(
        write_changes(tmp_path, [rows[7] | {"item_id": "twin"}, {"item_id": rows[9]["item_id"], "price": 50}])
    )
    updated = update_run(run, load_item_tower(run), updates)
    vectors, old_vectors = unpack_int8(updated.catalog.vectors), unpack_int8(run.catalog.vectors)
    count = len(run.items)
    assert vectors.shape[0] == count + 1
    changed = torch.nonzero((vectors[:count] - old_vectors).abs().max(1).values > 1e-6)[:, 0].tolist()
    assert changed == [10]
    # A new item with the facts of an old one is among its neighbours, though the tower has no id of it.
    neighbours = (vectors[1:count] @ vectors[count]).argsort(descending=True)[:8] + 1
    assert 8 in neighbours.tolist()
    assert vectors[count].norm() == pytest.approx(1, abs=0.02)
    assert updated.catalog.price[0, count] == pytest.approx(float(rows[7]["price"]))
    units = run.catalog.mean_line_spend[0, 10] / run.catalog.price[0, 10]
    assert updated.catalog.mean_line_spend[0, 10] == pytest.approx(50 * float(units), rel=1e-4)
    assert (run.sources.n_items, updated.sources.n_items) == (count, count + 1)
    tables = zip(*map(split_lists, (run.sources, updated.sources)), run.sources.lists_by_item, strict=True)
    for old, new, by_item in tables:
        assert torch.equal(new, torch.cat([old, old[-1:]]) if by_item else old)
    assert {True, False} == set(run.sources.lists_by_item)  # by item and by leaf category


def split_lists(sources: CandidateSources) -> tuple[torch.Tensor, ...]:
    """Offsets of the lists of each source."""
    return sources.list_offsets.tensor_split(sources.list_first_rows[1:])


def test_an_export_reports_the_item_updates_that_it_drops(
    run_folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    updated = update_bundle(root, write_changes(tmp_path))
    exported = make_bundle(run_folder, root)
    assert f"--items {updated / ITEM_UPDATES_FILE}" in capsys.readouterr().out
    assert not open_bundle(exported).item_rows.row("n000")
    assert open_bundle(update_bundle(root, updated / ITEM_UPDATES_FILE)).item_rows.row("n000")


def test_degradation_is_measured_and_a_rebuild_ends_it(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = {"recall": 0.99, "imbalance": 1.0, "vectors": 100}
    index = {"recall": 0.97, "imbalance": 1.4, "vectors": 150, "built": built}
    assert (
        index_degradation(index, DegradationLimits(0.03, max_growth_ratio=1.2))
        == "its vectors grew from 100 to 150"
    )
    assert not index_degradation(index, DegradationLimits(0.03, 1.5))
    assert index_degradation(index, DegradationLimits(0.01, 1.5)) == "recall@300 fell from 0.99 to 0.97"
    assert (
        index_degradation(index, DegradationLimits(0.03, 1.3))
        == "the imbalance of the lists rose from 1.0 to 1.4"
    )
    update_bundle(root, write_changes(tmp_path), limits=DegradationLimits(max_imbalance_ratio=0.5))
    assert f"python export.py update --bundle {root} --rebuild" in capsys.readouterr().out
    bundle = open_bundle(update_bundle(root, None, rebuild=True))
    assert bundle.manifest["index"]["built"]["recall"] == bundle.manifest["index"]["recall"]
    assert bundle.item_rows.row("n000")


def test_what_cannot_be_updated_is_refused(root: Path, run_folder: Path, tmp_path: Path) -> None:
    file, current = write_changes(tmp_path), (root / "current").resolve()
    with pytest.raises(ExportError, match="nothing to do"):
        update_bundle(root, None)
    with pytest.raises(ExportError, match="no bundle here"):
        update_bundle(tmp_path / "none", file)
    with pytest.raises(ExportError, match="give the folder that holds `current`"):
        update_bundle(current, file)
    with pytest.raises(ExportError, match="the bundle was made from ranker-0"):
        update_bundle(root, file, run=RunLocation(str(run_folder.parent / "retrieval-0")))
    with pytest.raises(ExportError, match=r"changes.csv: column 'pric' is unknown.*rename it to 'price'"):
        update_bundle(root, write_changes(tmp_path, [{"item_id": "i001", "pric": 3}]))
    with pytest.raises(ExportError, match="item_id was already given"):
        update_bundle(root, write_changes(tmp_path, [{"item_id": "i001"}] * 2))
    assert (root / "current").resolve() == current
    assert not list(root.glob(".partial*"))


def test_a_damaged_version_is_not_published_again(root: Path, tmp_path: Path) -> None:
    index = (root / "current" / "index.faiss").resolve()
    raw = bytearray(index.read_bytes())
    raw[-20] ^= 1
    index.write_bytes(raw)
    with pytest.raises(ExportError, match=r"index.faiss: its bytes differ"):
        update_bundle(root, write_changes(tmp_path))


def test_a_run_that_was_trained_again_is_refused(root: Path, run_folder: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(run_folder.parent, tmp_path / "runs"))
    retrieval = runs / "retrieval-0" / "vectors.pt"
    torch.save(torch.load(retrieval).roll(1, 0), retrieval)
    manifest = json.loads((runs / "ranker-0" / "done.json").read_text()) | {"retrieval": "../retrieval-0"}
    (runs / "ranker-0" / "done.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="the run was trained again"):
        update_bundle(root, write_changes(tmp_path), run=RunLocation(str(runs / "ranker-0")))


def test_a_version_published_in_the_meantime_is_not_overwritten(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes while this one verifies."""
    check_limits = verification.check_limits

    def check_after_another_update(*arguments: Any) -> None:
        items = write_changes(tmp_path, [{"item_id": "i001", "price": 1.0}])
        done = command("export.py", "update", "--bundle", str(root), "--items", str(items))
        assert done.returncode == 0, done.stderr
        check_limits(*arguments)

    monkeypatch.setattr(verification, "check_limits", check_after_another_update)
    with pytest.raises(ExportError, match="published in the meantime"):
        update_bundle(root, write_changes(tmp_path))
    assert open_bundle(root).price[1] != pytest.approx(9.5)
    assert len(pq.read_table(root / "current" / ITEM_UPDATES_FILE)) == 1


def test_the_command(root: Path, tmp_path: Path) -> None:
    done = command("export.py", "update", "--bundle", str(root), "--items", str(write_changes(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert "5 changed since the training" in done.stdout
    wrong = command("export.py", "update", "--bundle", str(root), "--items", str(tmp_path / "none.csv"))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: ")
    assert "no such file" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_bundle_of_the_earlier_format_is_updated_to_todays(root: Path, tmp_path: Path) -> None:
    version = (root / "current").resolve()
    items = read_arrow(str(version / "items.arrow"))
    old_names = OLD_COLUMN_NAMES[7]
    write_arrow(
        items.rename_columns([old_names.get(name, name) for name in items.column_names]),
        tmp_path / "items.arrow",
    )
    shutil.copy(tmp_path / "items.arrow", version / "items.arrow")
    reseal(version, format=7)
    updated = update_bundle(root, write_changes(tmp_path))
    assert read_manifest(updated)["format"] == FORMAT_VERSION
    assert open_bundle(updated).item_rows.row("n000")


def test_data_of_an_earlier_release_is_refused(root: Path, run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder.parents[1], tmp_path / "shop", symlinks=True)
    run = tmp_path / "shop" / "runs" / run_folder.name
    manifest = json.loads((run / "done.json").read_text())
    prepared = Path(shutil.copytree(manifest["prepared"], tmp_path / "prepared"))
    (run / "done.json").write_text(json.dumps(manifest | {"prepared": str(prepared)}))
    snapshots = pq.read_table(prepared / "snapshots.parquet")
    names = ["popularity" if name == "orders_28d" else name for name in snapshots.column_names]
    pq.write_table(snapshots.rename_columns(names), prepared / "snapshots.parquet")
    with pytest.raises(ExportError, match="prepared by an earlier release"):
        update_bundle(root, write_changes(tmp_path), run=RunLocation(str(run)))
