"""Arms that name a version are answered by it; a version that cannot serve is reported."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from serving import BundleError, Recommender
from serving.bundle_watcher import BundleWatcher, load_lock
from serving.cli import main
from serving.experiments.assignment import Experiments, assign_user
from serving.experiments.declaration import read_experiments
from serving.http.app import create_app
from serving.http.settings import Settings
from serving.storage.versions import CHALLENGER_FOLDER, find_version, set_current_version
from tests.serving.conftest import NAMES
from tests.serving.events.logs import logged
from tests.serving.http.services import BASKET, Client, command, serving, six, until
from tests.serving.test_bundle_watcher import ready

A, BROKEN, B = NAMES  # `current` of `root` names B
USERS = [f"u{number:03}" for number in range(24)]
SLATES = "/v1/recommendations"
UNSERVED = 'sextet_arm_version_fallback{version="%s"}'
FILE = """
salt = "test"
[experiments.model]
layer = "model"
buckets = [0, 900]
users = 100
"""


def experiments(folder: Path, **arms: str) -> Path:
    """A file whose experiment `model` has these arms, each with its version."""
    tables = [f'arms.{arm} = {{ version = "{name}" }}' for arm, name in arms.items()]
    path = folder / "experiments.toml"
    path.write_text(FILE + "\n".join(tables))
    return path


def service(root: Path, path: Path, log: Path) -> Any:
    settings = Settings(root, log=log, deadline_ms=60_000.0, poll_seconds=0.02, experiments=path)
    return serving(create_app(settings))


def answered(client: Client, users: Iterable[str | None] = USERS) -> dict[str | None, str]:
    """By user the version that answered, which the titles of the slate name too."""
    versions = {}
    for user in users:
        slate = six(client.post(SLATES, BASKET | {"user_id": user}))
        titles = {item["title"].rpartition(" of ")[2] for item in slate["items"]}
        assert titles == {slate["bundle_version"]}
        versions[user] = slate["bundle_version"]
    return versions


def in_arm(running: Experiments, arm: str) -> set[str]:
    return {user for user in USERS if assign_user(running, user).arms == f"model:{arm}"}


def test_an_arm_is_answered_by_its_version(root: Path, tmp_path: Path) -> None:
    """A new `current` changes the arm that names none, and users in no arm, but not this arm."""
    path, log = experiments(tmp_path, control="current", old=A), tmp_path / "log"
    running = read_experiments(path)
    old, control = in_arm(running, "old"), in_arm(running, "control")
    assert min(len(old), len(control), len({*USERS} - old - control)) > 0
    with service(root, path, log) as client:
        bundle = client.get("/v1/bundle").json()
        assert (bundle["version"], bundle["arms"]) == (B, {A: A})
        assert client.get("/readyz").json() == {"status": "ready", "bundle_version": B, "reason": ""}
        assert client.number(UNSERVED % A) == 0
        before = answered(client, [*USERS, None])
        assert before == {user: A if user in old else B for user in before}
        shutil.copytree(root / B, root / "v4")
        set_current_version(root, "v4")
        until(lambda: client.service.bundle_watcher.recommender.bundle.folder.name == "v4")
        assert client.service.bundle_watcher.recommenders[A].bundle.version == A
        kept = client.service.bundle_watcher.recommenders[A]
        set_current_version(root, A)  # it serves already: nothing is loaded
        until(lambda: client.service.bundle_watcher.recommender is kept)
        assert {*answered(client).values()} == {A}
        assert client.number('sextet_bundle_loads_total{outcome="loaded"}') == 3
        assert client.number('sextet_bundle_loads_total{outcome="shared"}') == 1
        set_current_version(root, B)  # the arm's version stays, though `current` leaves it
        until(lambda: client.service.bundle_watcher.recommender.bundle.version == B)
        assert client.service.bundle_watcher.recommenders[A] is kept
        assert answered(client) == {user: before[user] for user in USERS}
    rows = logged(log)
    assert all(row["arm"] == assign_user(running, row["user_id"]).arms for row in rows)
    assert {row["bundle_version"] for row in rows if row["arm"] == "model:old"} == {A}
    assert {row["bundle_version"] for row in rows if row["arm"] == "model:control"} == {A, B}


@pytest.mark.parametrize(
    ("name", "reason"), [(BROKEN, "ranker.ts"), ("gone", f"there is no version gone.*{A}")]
)
def test_current_answers_for_a_version_that_cannot_serve(
    root: Path, tmp_path: Path, name: str, reason: str
) -> None:
    """The log has the arm with the version that answered; a probe, a metric and a route report it."""
    path, log = experiments(tmp_path, control="current", next=name), tmp_path / "log"
    with service(root, path, log) as client:
        assert {*answered(client).values()} == {B}
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["bundle_version"]) == ("ready", B)
        assert ready["reason"].startswith(f"`current` answers for the arms of {name}: ")
        assert re.search(reason, ready["reason"])
        assert client.get("/v1/bundle").json()["arms"] == {name: B}
        assert client.number(UNSERVED % name) == 1
        if name == "gone":
            os.rename(shutil.copytree(root / A, tmp_path / "copy"), root / "gone")
            until(lambda: client.get("/readyz").json()["reason"] == "")
            assert client.number(UNSERVED % name) == 0
            assert set(answered(client, in_arm(read_experiments(path), "next")).values()) == {
                A
            }  # as its manifest says
    rows = [row for row in logged(log) if row["arm"] == "model:next"]
    assert rows
    assert {row["bundle_version"] for row in rows} == ({A, B} if name == "gone" else {B})


def test_popular_items_are_those_of_the_version(root: Path, tmp_path: Path) -> None:
    """Where the models would be too late, the event loop makes the answer."""
    path = experiments(tmp_path, old=A, older=A)
    with service(root, path, tmp_path / "log") as client:
        client.service.admission.queue_limit = 0
        slate = six(
            client.post(SLATES, BASKET | {"user_id": next(iter(in_arm(read_experiments(path), "old")))})
        )
        assert slate["reason"].startswith("overloaded")
        assert slate["bundle_version"] == A
        assert slate["items"][0]["title"].endswith(f" of {A}")


def test_an_open_breaker_of_any_version_is_reported(root: Path, tmp_path: Path) -> None:
    path = experiments(tmp_path, control="current", old=A)
    with service(root, path, tmp_path / "log") as client:
        breaker_open = 'sextet_breaker_open{stage="ranker"}'
        old, current = (
            client.service.bundle_watcher.recommenders[name].stage_stats.breakers["ranker"]
            for name in (A, "current")
        )
        for breaker in (old, current):
            for _ in range(3):
                breaker.record_failure()
        assert client.number(breaker_open) == 1
        old.record_success()
        assert client.number(breaker_open) == 1
        current.record_success()
        assert client.number(breaker_open) == 0
        assert client.number('sextet_breaker_trips_total{stage="ranker"}') == 2


def test_the_order_of_loading(root: Path) -> None:
    """Arms first, so that a ready process answers them all; a version once; one process at a time."""
    loaded: list[str] = []

    def load(folder: Path) -> Recommender:
        loaded.append(folder.name)
        return Recommender.load(folder)

    (root / CHALLENGER_FOLDER).mkdir()
    (root / A).rename(root / CHALLENGER_FOLDER / A)
    watcher = BundleWatcher(root, load, versions=[A, B])
    assert (watcher.recommender, watcher.reason) == (None, "the bundle is being loaded")
    watcher.poll()
    assert loaded == [A, B]
    assert watcher.recommenders["current"] is watcher.recommenders[B]
    assert watcher.reason == ""
    late = BundleWatcher(root, load, versions=["late"])
    late.poll()
    shutil.copytree(root / B, root / "late")
    with load_lock(root):  # another process loads another version
        late.poll()
        assert "late" not in late.recommenders
    late.poll()
    assert late.recommenders["late"].bundle.folder.name == "late"
    pinned = BundleWatcher(root / B, load, versions=[A])
    pinned.poll()
    assert {name: recommender.bundle.version for name, recommender in pinned.recommenders.items()} == {
        A: A,
        "current": B,
    }


def test_a_version_is_found_published_or_not(root: Path) -> None:
    (root / CHALLENGER_FOLDER).mkdir()
    shutil.copytree(root / A, root / CHALLENGER_FOLDER / "next")
    assert find_version(root, "next") == root / CHALLENGER_FOLDER / "next"
    assert find_version(root, A) == root / A
    with pytest.raises(BundleError, match=f"there is no version other.*{B}, next"):
        find_version(root, "other")


def test_the_command_pins_both_arms(root: Path, tmp_path: Path) -> None:
    """A real service whose `current` changes: neither arm changes."""
    path, log = experiments(tmp_path, control=B, old=A), tmp_path / "log"
    arms = {user: assign_user(read_experiments(path), user).arms for user in USERS}
    options = ("--experiments", str(path), "--log", str(log), "--deadline-ms", "10000")
    with command(root, *options, "--poll-seconds", "0.05") as process:
        for version in (B, A):
            set_current_version(root, version)
            until(lambda version=version: ready(process)["bundle_version"] == version)  # type: ignore[misc]
            for user in USERS:
                slate = json.loads(process.ask("POST", SLATES, BASKET | {"user_id": user})[1])
                assert (
                    slate["bundle_version"] == {"model:old": A, "model:control": B, "": version}[arms[user]]
                )
        assert json.loads(process.ask("GET", "/v1/bundle")[1])["arms"] == {A: A, B: B}
        assert f"{UNSERVED % A} 0.0" in process.ask("GET", "/metrics")[1].decode()
    rows = logged(log)
    assert len(rows) == 6 * 2 * len(USERS)
    assert {(row["arm"], row["bundle_version"]) for row in rows if row["arm"]} == {
        ("model:old", A), ("model:control", B)
    }  # fmt: skip


@pytest.mark.parametrize("version_toml", ['"../secret"', '".challenger/v"', '""', "7"])
def test_an_invalid_file_is_refused_at_the_start(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], version_toml: str
) -> None:
    path = experiments(tmp_path, control="current", next=A)
    path.write_text(path.read_text().replace(f'"{A}"', version_toml))
    arguments = ["serve", "--bundle", str(root), "--log", str(tmp_path / "log"), "--experiments", str(path)]
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {path}: experiment 'model', arm 'next': version is ")
    assert "expected the name of a version's folder in the bundle root" in message
