"""Items come, change and go in a published bundle, and the version before goes on serving."""

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
from exporting.export import ITEM_UPDATES_FILE
from exporting.opened_run import ExportError, load_item_tower, load_trained_run
from exporting.updates.catalog import update_run
from exporting.updates.update import DegradationLimits, index_degradation, update_bundle
from models.embeddings import unpack_int8
from serving import Checkout, Line, Recommender
from serving.storage.bundle import open_bundle
from tests.data.shop import write_csv
from tests.end_to_end.commands import command
from tests.exporting.bundles import make_bundle

CHANGES: list[dict[str, Any]] = [
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


def written(folder: Path, rows: list[dict[str, Any]] = CHANGES) -> Path:
    columns = dict.fromkeys(name for row in rows for name in row)
    write_csv(folder / "changes.csv", [{name: row.get(name, "") for name in columns} for row in rows])
    return folder / "changes.csv"


@pytest.fixture
def root(version: Path, tmp_path: Path) -> Path:
    """A bundle root of its own."""
    return Path(shutil.copytree(version.parent, tmp_path / "bundle", symlinks=True))


def test_what_changed_is_served_and_the_version_before_goes_on(root: Path, tmp_path: Path) -> None:
    before = (root / "current").resolve()
    reader = Recommender.load(root, root / "store.arrow")
    checkout = Checkout("u001", [Line("i001")], ts=1_712_000_000)
    slate = reader.recommend(checkout, deadline_ms=float("inf"))
    made = update_bundle(root, written(tmp_path))
    assert made == (root / "current").resolve() != before
    assert reader.recommend(checkout, deadline_ms=float("inf")).items == slate.items
    assert Recommender.load(before).bundle.version == before.name

    old, new = open_bundle(before), open_bundle(made)
    assert new.item_id.to_pylist() == [*old.item_id.to_pylist(), "n000", "n001"]
    assert not new.available[new.item_rows.row("i004")]
    assert new.price[[new.item_rows.row("i003"), new.item_rows.row("n000")]] == pytest.approx([9.5, 2.5])
    assert [new.title[new.item_rows.row(i)].as_py() for i in ("i005", "n000", "n001")] == [
        "Towel No 4", "Milk No 99", "n001",
    ]  # fmt: skip
    vectors, was = (unpack_int8(bundle.catalog[-1]).numpy() for bundle in (new, old))
    changed = [new.item_rows.row(i) for i in ("i003", "i005", "n000", "n001")]
    same = np.delete(np.arange(1, len(vectors)), np.array(changed) - 1)
    np.testing.assert_array_equal(vectors[same], was[same])
    assert (new.index.search(vectors[changed], 1)[:, 0] == changed).all()
    assert new.item_rows.row("i004") not in new.index.search(vectors[1:], 300)
    about = json.loads((made / "manifest.json").read_text())
    assert about["index"]["vectors"] == new.available.sum() == old.available.sum() + 1
    assert about["export"]["updated"] == before.name
    assert about["dims"]["items"] == len(new.item_id)
    assert ITEM_UPDATES_FILE in about["files"]

    recommender = Recommender.load(made, root / "store.arrow")
    bought = Checkout("u001", [Line("n000"), Line("i004")])
    shown = recommender.recommend(bought, deadline_ms=float("inf"))
    assert shown.tier == "ranked"
    assert len(shown.items) == 6
    assert "i004" not in {item.item_id for item in shown.items}


def test_updates_add_up_and_a_removed_item_may_return(root: Path, tmp_path: Path) -> None:
    first = update_bundle(root, written(tmp_path))
    assert update_bundle(root, written(tmp_path)) == first  # nothing new in it
    second = update_bundle(
        root,
        written(
            tmp_path,
            [{"item_id": "i004", "available": True}, {"item_id": "n001", "title": "Soap No 7", "price": 3.0}],
        ),
    )
    bundle = open_bundle(second)
    assert bundle.available[bundle.item_rows.row("i004")]
    assert bundle.title[bundle.item_rows.row("n001")].as_py() == "Soap No 7"
    assert bundle.price[bundle.item_rows.row("i003")] == pytest.approx(9.5)
    assert len(pq.read_table(second / ITEM_UPDATES_FILE)) == len(CHANGES)
    vectors = unpack_int8(bundle.catalog[-1]).numpy()
    rows = np.flatnonzero(bundle.available)
    assert (bundle.index.search(vectors[rows], 1)[:, 0] == rows).mean() > 0.95
    # The same from one file with everything in it: a version follows from run and ledger.
    shutil.copy(second / ITEM_UPDATES_FILE, tmp_path / "all.parquet")
    (root / "current").unlink()
    (root / "current").symlink_to(min(path.name for path in root.iterdir() if path.is_dir()))
    again = open_bundle(update_bundle(root, tmp_path / "all.parquet"))
    assert again.item_id == bundle.item_id
    for ours, theirs in zip(again.catalog, bundle.catalog, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", ["ivf_sq8", "ivf_pq", "ivf_rabitq", "hnsw_sq8"])
def test_every_family_takes_changes(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr("exporting.index.tuning.SMALL", 1)
    overrides = ["index.shards=2", f"index.families=[{family}]"]
    make_bundle(run_folder, tmp_path / "bundle", *overrides)
    made = update_bundle(tmp_path / "bundle", written(tmp_path))
    about = json.loads((made / "manifest.json").read_text())["index"]
    assert about["system"] == family
    assert about["files"] == ["index-000.faiss", "index-001.faiss"]
    bundle = open_bundle(made)
    vectors = unpack_int8(bundle.catalog[-1]).numpy()
    rows = np.flatnonzero(bundle.available)
    assert sum(index.ntotal for index in bundle.index.shards) == len(rows)
    found = bundle.index.search(vectors[rows], 300)
    assert bundle.item_rows.row("i004") not in found
    assert np.mean([row in mine for row, mine in zip(rows, found, strict=True)]) > 0.95


def test_the_item_tower_places_changed_items_by_their_new_facts(run_folder: Path, tmp_path: Path) -> None:
    trained = load_trained_run(run_folder)
    rows = list(csv.DictReader((run_folder.parents[1] / "shop" / "items.csv").open()))
    ledger = item_changes.read_item_updates(
        written(tmp_path, [rows[7] | {"item_id": "twin"}, {"item_id": rows[9]["item_id"], "price": 50}])
    )
    after = update_run(trained, load_item_tower(trained), ledger)
    vectors, was = unpack_int8(after.catalog.vectors), unpack_int8(trained.catalog.vectors)
    count = len(trained.items)
    assert vectors.shape[0] == count + 1
    moved = torch.nonzero((vectors[:count] - was).abs().max(1).values > 1e-6)[:, 0].tolist()
    assert moved == [10]
    # A new item with the facts of a known one lies beside it, though it has no id that was learned.
    near = (vectors[1:count] @ vectors[count]).argsort(descending=True)[:8] + 1
    assert 8 in near.tolist()
    assert vectors[count].norm() == pytest.approx(1, abs=0.02)
    assert after.catalog.price[0, count] == pytest.approx(float(rows[7]["price"]))
    paid = trained.catalog.mean_line_spend[0, 10] / trained.catalog.price[0, 10]
    assert after.catalog.mean_line_spend[0, 10] == pytest.approx(50 * float(paid), rel=1e-4)
    old, new = trained.sources, after.sources
    assert (old.new_item_mask.numel(), new.new_item_mask.numel()) == (count, count + 1)
    was, now = (s.list_offsets.tensor_split(s.list_row_offsets[1:]) for s in (old, new))
    assert torch.equal(now[1], was[1])  # by leaf category
    for before, longer in ((was[0], now[0]), (was[2], now[2])):
        assert torch.equal(longer, torch.cat([before, before[-1:]]))


def test_an_export_says_that_the_changes_are_not_in_it(
    run_folder: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = update_bundle(root, written(tmp_path))
    again = make_bundle(run_folder, root)
    assert f"--items {changed / ITEM_UPDATES_FILE}" in capsys.readouterr().out
    assert not open_bundle(again).item_rows.row("n000")
    assert open_bundle(update_bundle(root, changed / ITEM_UPDATES_FILE)).item_rows.row("n000")


def test_drift_is_measured_and_a_rebuild_mends_it(
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
    update_bundle(root, written(tmp_path), limits=DegradationLimits(max_imbalance_ratio=0.5))
    assert f"python export.py update --bundle {root} --rebuild" in capsys.readouterr().out
    made = update_bundle(root, None, rebuild=True)
    bundle = open_bundle(made)
    assert bundle.manifest["index"]["built"]["recall"] == bundle.manifest["index"]["recall"]
    assert bundle.item_rows.row("n000")


def test_what_cannot_be_updated_is_refused(root: Path, run_folder: Path, tmp_path: Path) -> None:
    file, current = written(tmp_path), (root / "current").resolve()
    with pytest.raises(ExportError, match="nothing to do"):
        update_bundle(root, None)
    with pytest.raises(ExportError, match="no bundle here"):
        update_bundle(tmp_path / "none", file)
    with pytest.raises(ExportError, match="give the folder that holds `current`"):
        update_bundle(current, file)
    with pytest.raises(ExportError, match="the bundle was made from ranker-0"):
        update_bundle(root, file, run=str(run_folder.parent / "retrieval-0"))
    with pytest.raises(ExportError, match=r"changes.csv: column 'pric' is unknown.*rename it to 'price'"):
        update_bundle(root, written(tmp_path, [{"item_id": "i001", "pric": 3}]))
    with pytest.raises(ExportError, match="item_id was already given"):
        update_bundle(root, written(tmp_path, [{"item_id": "i001"}] * 2))
    assert (root / "current").resolve() == current
    assert not list(root.glob(".partial*"))


def test_a_damaged_version_is_not_published_again(root: Path, tmp_path: Path) -> None:
    index = (root / "current" / "index.faiss").resolve()
    raw = bytearray(index.read_bytes())
    raw[-20] ^= 1
    index.write_bytes(raw)
    with pytest.raises(ExportError, match=r"index.faiss: its bytes differ"):
        update_bundle(root, written(tmp_path))


def test_a_run_that_was_trained_again_is_refused(root: Path, run_folder: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(run_folder.parent, tmp_path / "runs"))
    retrieval = runs / "retrieval-0" / "vectors.pt"
    torch.save(torch.load(retrieval).roll(1, 0), retrieval)
    notes = json.loads((runs / "ranker-0" / "done.json").read_text()) | {"retrieval": "../retrieval-0"}
    (runs / "ranker-0" / "done.json").write_text(json.dumps(notes))
    with pytest.raises(ExportError, match="it was trained again"):
        update_bundle(root, written(tmp_path), run=str(runs / "ranker-0"))


def test_a_version_published_meanwhile_is_not_overwritten(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process publishes while this one verifies."""
    from exporting import verification

    check = verification.check_limits

    def overtaken(*arguments: Any) -> None:
        other = written(tmp_path, [{"item_id": "i001", "price": 1.0}])
        done = command("export.py", "update", "--bundle", str(root), "--items", str(other))
        assert done.returncode == 0, done.stderr
        check(*arguments)

    monkeypatch.setattr(verification, "check", overtaken)
    with pytest.raises(ExportError, match="published meanwhile"):
        update_bundle(root, written(tmp_path))
    assert open_bundle(root).price[1] != pytest.approx(9.5)
    assert len(pq.read_table(root / "current" / ITEM_UPDATES_FILE)) == 1


def test_the_command(root: Path, tmp_path: Path) -> None:
    done = command("export.py", "update", "--bundle", str(root), "--items", str(written(tmp_path)))
    assert done.returncode == 0, done.stderr
    assert "5 changed since the training" in done.stdout
    wrong = command("export.py", "update", "--bundle", str(root), "--items", str(tmp_path / "none.csv"))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: ")
    assert "no such file" in wrong.stderr
    assert "Traceback" not in wrong.stderr
