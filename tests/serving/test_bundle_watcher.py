"""A watcher loads new good versions while requests are answered, and no bad ones."""

import gc
import json
import shutil
import threading
import weakref
from pathlib import Path

import pytest

from serving import Checkout, Line, Recommender
from serving.bundle_watcher import BundleWatcher, load_lock
from serving.storage.versions import set_current_version
from tests.serving.conftest import NAMES
from tests.serving.http.services import Command, command, until

JSON_HEADERS = {"Content-Type": "application/json"}
BODY = json.dumps({"user_id": "u001", "basket": [{"item_id": "i001"}]})


def test_a_good_version_is_loaded_and_a_bad_one_is_refused(root: Path) -> None:
    outcomes: list[str] = []
    loaded: list[Path] = []

    def load(folder: Path) -> Recommender:
        loaded.append(folder)
        return Recommender.load(folder)

    watcher = BundleWatcher(root, load, on_load_outcome=outcomes.append)
    assert watcher.recommender is None
    assert watcher.reason == "the bundle is being loaded"
    watcher.poll()
    first = watcher.recommender
    assert (first.bundle.version, watcher.reason) == (NAMES[2], "")
    for _ in range(3):
        watcher.poll()
    assert len(loaded) == 1
    set_current_version(root, NAMES[1])
    for _ in range(3):  # no poll tries it again before RETRY_INTERVAL_S
        watcher.poll()
    assert watcher.recommender is first
    assert "ranker.ts" in watcher.reason
    assert NAMES[1] in watcher.reason
    set_current_version(root, NAMES[0])
    watcher.poll()
    assert (watcher.recommender.bundle.version, watcher.reason) == (NAMES[0], "")
    (root / "current").unlink()
    watcher.poll()
    assert watcher.recommender.bundle.version == NAMES[0]
    assert "no bundle here" in watcher.reason
    set_current_version(root, "gone")
    watcher.poll()
    assert "a folder that is missing" in watcher.reason
    set_current_version(root, NAMES[0])
    watcher.poll()
    assert watcher.reason == ""
    assert outcomes == ["loaded", "refused", "loaded"]


def test_a_bad_version_is_tried_again_later(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_current_version(root, NAMES[1])
    watcher = BundleWatcher(root, Recommender.load)
    watcher.poll()
    shutil.copy(root / NAMES[0] / "ranker.ts", root / NAMES[1])  # the copy is complete now
    watcher.poll()
    assert (watcher.recommender.bundle.version, watcher.is_degraded) == (NAMES[0], True)
    monkeypatch.setattr("serving.bundle_watcher.RETRY_INTERVAL_S", 0.0)
    watcher.poll()
    assert watcher.recommender.bundle.version == NAMES[1]


def test_a_version_that_hangs_is_abandoned(root: Path) -> None:
    """Another version loads next, here and in other processes; one call waits for the disk, not many."""
    set_current_version(root, NAMES[0])
    outcomes: list[str] = []
    released = threading.Event()
    hanging = (root / NAMES[1]).resolve()

    def load(folder: Path) -> Recommender:
        if folder == hanging:
            released.wait(60)  # as a read from a network disk that is away
        return Recommender.load(folder)

    watcher = BundleWatcher(root, load, on_load_outcome=outcomes.append, load_timeout=30)
    watcher.poll()
    set_current_version(root, NAMES[1])
    watcher.load_timeout = 0.2
    for _ in range(3):
        watcher._failed_loads.clear()  # as after RETRY_INTERVAL_S
        watcher.poll()
    assert watcher.recommender.bundle.version == NAMES[0]
    assert watcher.reason.startswith(f"{hanging.name} cannot serve: ")
    assert watcher.is_degraded
    assert sum(thread.name == f"call of {hanging}" for thread in threading.enumerate()) == 1
    with load_lock(root) as acquired:
        assert acquired
    set_current_version(root, NAMES[2])
    watcher.load_timeout = 30
    watcher.poll()
    assert (watcher.recommender.bundle.version, watcher.is_degraded) == (NAMES[2], False)
    assert outcomes == ["loaded", *["abandoned"] * 3, "loaded"]
    released.set()


@pytest.mark.parametrize("fault", ["gone", "no link", "a file", "unreadable manifest"])
def test_a_bad_current_at_the_start(root: Path, fault: str) -> None:
    """The newest good version before it answers, as `rollback` would choose."""
    if fault == "gone":
        shutil.rmtree(root / NAMES[2])
    elif fault == "no link":
        (root / "current").unlink()
        shutil.rmtree(root / NAMES[2])
    elif fault == "a file":
        shutil.rmtree(root / NAMES[2])
        (root / NAMES[2]).touch()
    else:
        (root / NAMES[2] / "manifest.json").write_bytes(b"\xff")
    watcher = BundleWatcher(root, Recommender.load)
    watcher.poll()
    assert watcher.recommender.bundle.version == NAMES[0]  # the second is broken
    assert watcher.is_degraded
    assert watcher.reason
    set_current_version(root, NAMES[0])
    watcher.poll()
    assert (watcher.reason, watcher.is_degraded) == ("", False)


def test_processes_take_turns(root: Path) -> None:
    """A process with a recommender waits while another one loads; a process without one loads at once."""
    set_current_version(root, NAMES[0])
    watcher, starting = BundleWatcher(root, Recommender.load), BundleWatcher(root, Recommender.load)
    watcher.poll()
    set_current_version(root, NAMES[2])
    with load_lock(root) as acquired:
        assert acquired
        watcher.poll()
        assert (watcher.recommender.bundle.version, watcher.reason) == (NAMES[0], "")
        starting.poll()
        assert starting.recommender.bundle.version == NAMES[2]
    watcher.poll()
    assert watcher.recommender.bundle.version == NAMES[2]


def test_the_old_version_is_freed(root: Path) -> None:
    """By its last request and without the garbage collector, which skips frozen objects."""
    watcher = BundleWatcher(root, lambda folder: Recommender.load(folder, root / "store.arrow"))
    watcher.poll()
    old = watcher.recommender
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
    references = [weakref.ref(part) for part in parts]
    parts.clear()
    set_current_version(root, NAMES[0])
    gc.disable()
    try:
        watcher.poll()
        assert all(reference() is not None for reference in references)  # its last request still runs
        del old
        assert [reference() for reference in references] == [None] * len(references)
    finally:
        gc.enable()


def test_no_request_fails_while_versions_change(root: Path) -> None:
    """Under load, with a broken version among four; every slate is of one version."""
    with command(root, "--poll-seconds", "0.05") as service:
        stop = threading.Event()
        failures: list[object] = []
        versions: list[str] = []  # of the slates

        def shop() -> None:
            connection = service.connect()
            while not stop.is_set():
                try:
                    connection.request("POST", "/v1/recommendations", BODY, JSON_HEADERS)
                    response = connection.getresponse()
                    slate = json.loads(response.read())
                    version = slate["bundle_version"]
                    titles = {item["title"].rpartition(" of ")[2] for item in slate["items"]}
                    distinct = {item["item_id"] for item in slate["items"]}
                    if response.status != 200 or titles != {version} or len(distinct) != 6:
                        failures.append(slate)
                    versions.append(version)
                except Exception as error:
                    failures.append(repr(error))
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
                expected = {"status": "ready", "bundle_version": name, "reason": ""}
                until(lambda expected=expected: ready(service) == expected)  # type: ignore[misc]
            answered = len(versions)
            until(lambda answered=answered: len(versions) > answered + 20)  # type: ignore[misc]
        stop.set()
        for thread in shops:
            thread.join()
        assert not failures
        assert {*versions} == {NAMES[0], NAMES[2]}
        page = service.ask("GET", "/metrics")[1].decode()
        assert 'sextet_bundle_loads_total{outcome="loaded"} 4.0' in page
        assert 'sextet_bundle_loads_total{outcome="refused"} 1.0' in page
        assert f'sextet_bundle{{version="{NAMES[0]}"}} 1.0' in page
        assert f'sextet_bundle{{version="{NAMES[2]}"}} 0.0' in page


def ready(service: Command) -> dict[str, str]:
    response: dict[str, str] = json.loads(service.ask("GET", "/readyz")[1])
    return response
