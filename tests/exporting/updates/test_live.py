"""What a shop changed while it served is part of the next version, and counts once."""

import time
from pathlib import Path
from typing import Any

import pytest

from exporting.export import ITEM_UPDATES_FILE
from exporting.exportable_run import ExportError
from exporting.updates.update import update_bundle
from serving import Checkout, Line, Recommender
from serving.http.item_updates import ItemUpdates
from serving.live_items.changes import UNTIL, make_change, to_entries
from serving.storage.bundle import Bundle, open_bundle
from serving.stores.live_state import SQLiteLiveState
from tests.exporting.bundles import make_bundle

CHANGES: list[dict[str, Any]] = [
    {"item_id": "i001", "price": 7.5, "attributes": {"unheard of": "x"}},
    {"item_id": "i002", "available": False, "title": "Another title"},
    {"item_id": "nowhere", "available": True, "price": 1.0},
    {"item_id": "new", "title": "Milk", "category": "of its own", "price": 2.5},
]


def write(live: Path, changes: list[dict[str, Any]], ts: float) -> None:
    SQLiteLiveState(live).write(to_entries(map(make_change, changes), ts))


def facts(bundle: Bundle, item_id: str) -> tuple[bool, float, str]:
    row = bundle.item_rows.row(item_id)
    assert row, item_id
    return bool(bundle.available[row]), round(bundle.price.item(row), 6), bundle.title[row].as_py()


def check_merged(bundle: Bundle) -> None:
    assert facts(bundle, "i001")[:2] == (True, 7.5)
    assert (facts(bundle, "i002")[0], facts(bundle, "i002")[2]) == (False, "Another title")
    assert facts(bundle, "new") == (True, 2.5, "Milk")
    assert not bundle.item_rows.row("nowhere")
    assert ITEM_UPDATES_FILE in bundle.manifest["files"]
    assert abs(bundle.manifest["export"][UNTIL] - time.time()) < 300


@pytest.fixture
def live(tmp_path: Path) -> Path:
    live = tmp_path / "live.sqlite"
    write(live, CHANGES, time.time() - 1000)
    return live


def test_an_export_merges_live_items(run_folder: Path, live: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    bundle = open_bundle(make_bundle(run_folder, root, f"live={live}", "bundle.spare_items=5"))
    check_merged(bundle)
    slate = Recommender.load(bundle.folder).recommend(
        Checkout(None, [Line("i001")], categories=["of its own"]), float("inf")
    )
    assert [item.item_id for item in slate.items] == ["new"]

    # An entry of before the export is part of it; a later one counts.
    recommender, updates = Recommender.load(bundle.folder), ItemUpdates()
    later = to_entries([make_change({"item_id": "i003", "price": 0.5})], time.time() + 5)
    updates.apply([*to_entries(map(make_change, [{"item_id": "i001", "price": 9.0}]), 1.0), *later], True)
    updates.attach(recommender)
    assert facts(recommender.bundle, "i001")[1] == 7.5
    assert facts(recommender.bundle, "i003")[1] == 0.5


def test_an_update_merges_what_came_since(run_folder: Path, live: Path, tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    make_bundle(run_folder, root, "bundle.spare_items=5")
    items = tmp_path / "items.csv"
    items.write_text("item_id,price\ni001,3.0\ni004,4.0\n")
    updated = update_bundle(root, items, live=str(live))
    bundle = open_bundle(updated)
    assert facts(bundle, "i001")[1] == 3.0  # the file is applied last
    assert facts(bundle, "i004")[1] == 4.0
    assert facts(bundle, "new") == (True, 2.5, "Milk")
    assert bundle.manifest["dims"]["spare"] == 5
    assert bundle.item_rows.row("new") == len(bundle.price) - 6  # the spare rows follow
    write(live, [{"item_id": "i005", "price": 5.0}], time.time() + 1)
    again = open_bundle(update_bundle(root, None, live=str(live)))
    assert (facts(again, "i001")[1], facts(again, "i005")[1]) == (3.0, 5.0)
    assert again.manifest["export"][UNTIL] > bundle.manifest["export"][UNTIL]
    assert update_bundle(root, items) == again.folder  # it has these items already


def test_a_live_state_that_cannot_be_read_is_named(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "live.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ExportError, match=r"live=.*live.sqlite"):
        make_bundle(run_folder, tmp_path / "bundle", f"live={tmp_path / 'live.sqlite'}")
