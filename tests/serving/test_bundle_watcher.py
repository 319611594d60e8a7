"""Another version is taken while requests are answered, and a bad one is not."""

import gc
import json
import shutil
import threading
import time
import weakref
from pathlib import Path
from statistics import median

import pytest

from serving import Checkout, Line, Recommender
from serving.bundle_watcher import BundleWatcher, load_lock
from serving.storage.versions import set_current_version
from tests.serving.conftest import NAMES
from tests.serving.http.services import Command, command, until

JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"user_id": "u001", "basket": [{"item_id": "i001"}]})


def test_a_good_version_is_taken_and_a_bad_one_is_not(root: Path) -> None:
    outcomes: list[str] = []
    loaded: list[Path] = []

    def load(folder: Path) -> Recommender:
        loaded.append(folder)
        return Recommender.load(folder)

    swap = BundleWatcher(root, load, on_load_outcome=outcomes.append)
    assert swap.recommender is None
    assert swap.reason == "the bundle is being loaded"
    swap.poll()
    first = swap.recommender
    assert (first.bundle.version, swap.reason) == (NAMES[2], "")
    for _ in range(3):
        swap.poll()
    assert len(loaded) == 1
    set_current_version(root, NAMES[1])
    for _ in range(3):  # it is not tried again every second
        swap.poll()
    assert swap.recommender is first
    assert "ranker.ts" in swap.reason
    assert NAMES[1] in swap.reason
    set_current_version(root, NAMES[0])
    swap.poll()
    assert (swap.recommender.bundle.version, swap.reason) == (NAMES[0], "")
    (root / "current").unlink()
    swap.poll()
    assert swap.recommender.bundle.version == NAMES[0]
    assert "no bundle here" in swap.reason
    set_current_version(root, "gone")
    swap.poll()
    assert "a folder that is gone" in swap.reason
    set_current_version(root, NAMES[0])
    swap.poll()
    assert swap.reason == ""
    assert outcomes == ["loaded", "refused", "loaded"]


def test_a_bad_version_is_tried_again_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_current_version(root, NAMES[1])
    swap = BundleWatcher(root, Recommender.load)
    swap.poll()
    shutil.copy(root / NAMES[0] / "ranker.ts", root / NAMES[1])  # the copy comes to its end
    swap.poll()
    assert swap.recommender is None
    monkeypatch.setattr("serving.bundle_watcher.RETRY", 0.0)
    swap.poll()
    assert swap.recommender.bundle.version == NAMES[1]


def test_processes_take_turns(root: Path) -> None:
    """Who answers waits while another process loads, who does not loads at once."""
    set_current_version(root, NAMES[0])
    swap, starting = BundleWatcher(root, Recommender.load), BundleWatcher(root, Recommender.load)
    swap.poll()
    set_current_version(root, NAMES[2])
    with load_lock(root) as turn:
        assert turn
        swap.poll()
        assert (swap.recommender.bundle.version, swap.reason) == (NAMES[0], "")
        starting.poll()
        assert starting.recommender.bundle.version == NAMES[2]
    swap.poll()
    assert swap.recommender.bundle.version == NAMES[2]


def test_the_old_version_is_freed(root: Path) -> None:
    """By its last request, without the garbage collector, which does not look at what was taken from it."""
    swap = BundleWatcher(root, lambda folder: Recommender.load(folder, root / "store.arrow"))
    swap.poll()
    old = swap.recommender
    old.recommend(Checkout("u001", [Line("i001")], categories=["c0"]), 1e9)
    parts = [
        old,
        old.bundle,
        old.eligibility_filter,
        old.feature_encoder,
        old.popularity_fallback,
        old.store,
        old.bundle.index,
    ]
    parts += [old.bundle.catalog[-1], old.bundle.ranker, old.bundle.title, old.item_vectors]
    gone = [weakref.ref(part) for part in parts]
    parts.clear()
    set_current_version(root, NAMES[0])
    gc.disable()
    try:
        swap.poll()
        assert all(part() is not None for part in gone)  # a request is being answered by it
        del old
        assert [part() for part in gone] == [None] * len(gone)
    finally:
        gc.enable()


def test_no_request_fails_while_versions_change(root: Path) -> None:
    """Under load, four times, a broken version among them; every slate is of one version."""
    with command(root, "--poll-seconds", "0.05") as service:
        stop, wrong, seen, taken = threading.Event(), [], [], []

        def shop() -> None:
            connection = service.connect()
            while not stop.is_set():
                started = time.perf_counter()
                try:
                    connection.request(
                        "POST", "/v1/recommendations", BODY, {"Content-Type": "application/json"}
                    )
                    response = connection.getresponse()
                    slate = json.loads(response.read())
                    taken.append(time.perf_counter() - started)
                    titles = {item["title"].rpartition(" of ")[2] for item in slate["items"]}
                    seen.append(slate["bundle_version"])
                    distinct = {item["item_id"] for item in slate["items"]}
                    if response.status != 200 or titles != {seen[-1]} or len(distinct) != 6:
                        wrong.append(slate)
                except Exception as error:
                    wrong.append(repr(error))
                    return

        shops = [threading.Thread(target=shop) for _ in range(3)]
        for thread in shops:
            thread.start()
        for name in (NAMES[0], NAMES[1], NAMES[2], NAMES[0]):
            set_current_version(root, name)
            if name == NAMES[1]:
                until(lambda: "ranker.ts" in ready(service)["reason"])
                assert ready(service)["bundle_version"] == NAMES[0]
            else:
                until(lambda name=name: ready(service) == {  # type: ignore[misc]
                    "status": "ready", "bundle_version": name, "reason": ""
                })  # fmt: skip
            asked = len(seen)
            until(lambda asked=asked: len(seen) > asked + 20)  # type: ignore[misc]
        stop.set()
        for thread in shops:
            thread.join()
        assert not wrong
        assert median(taken) < 0.105
        changes = [name for place, name in enumerate(seen) if name != seen[max(0, place - 20)]]
        assert {*seen} == {NAMES[0], NAMES[2]}
        assert changes
        page = service.ask("GET", "/metrics")[1].decode()
        assert 'sextet_bundle_loads_total{outcome="loaded"} 4.0' in page
        assert 'sextet_bundle_loads_total{outcome="refused"} 1.0' in page
        assert f'sextet_bundle{{version="{NAMES[0]}"}} 1.0' in page
        assert f'sextet_bundle{{version="{NAMES[2]}"}} 0.0' in page


def ready(service: Command) -> dict[str, str]:
    found: dict[str, str] = json.loads(service.ask("GET", "/readyz")[1])
    return found
