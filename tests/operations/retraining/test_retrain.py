"""retrain.py on a shop that grows: full, incremental, nothing new, poisoned, killed."""

import csv
import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from exporting.export import open_root
from exporting.exportable_run import ExportError
from operations.retraining.retrain import DECISIONS_FILE, promote_challenger
from serving import Checkout, Recommender
from serving.remote import RemoteFolder
from serving.storage.bundle_mirror import local_root, pull_current
from serving.storage.versions import CHALLENGER_FOLDER
from tests.data.shop import DAY, START, iso, write_shop
from tests.end_to_end.commands import command

LENIENT = ["retrain.gates.quality=0.9", "retrain.gates.calibration=20", "retrain.gates.drift=99"]

# Runs a script that kills itself after its next stage, or before it publishes the challenger's bundle.
KILLED_AT_NEXT_STAGE = f"""
import os, runpy, signal, sys
from pathlib import Path

replace, rename = os.replace, os.rename

def replace_and_die(source, target, **options):
    replace(source, target, **options)
    if Path(target).name == "done.json":
        os.kill(os.getpid(), signal.SIGKILL)

def die_or_rename(source, target, **options):
    if Path(target).parent.name == "{CHALLENGER_FOLDER}":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target, **options)

os.replace, os.rename = replace_and_die, die_or_rename
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Shop:
    """A folder with a shop, its bundle and the files of retraining."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "bundle"
        write_shop(folder / "shop", users=40, items=60, days=140)

    def arguments(self, day: int, *overrides: str) -> list[str]:
        return [
            "retrain.py", "experiment=debug", "data=tables", f"data.root={self.folder / 'shop'}",
            "data.horizon=7d", f"data.until='{iso(START + day * DAY)}'", f"bundle.dir={self.root}",
            f"paths.prepared={self.folder / 'prepared'}", f"paths.runs={self.folder / 'runs'}",
            f"mlflow.tracking_uri={self.tracking_uri}", *overrides,
        ]  # fmt: skip

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def retrain(self, day: int, *overrides: str) -> str:
        done = command(*self.arguments(day, *overrides))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def current(self) -> str:
        return os.readlink(self.root / "current")

    def decisions(self) -> list[dict]:
        return [json.loads(line) for line in (self.root / DECISIONS_FILE).read_text().splitlines()]

    def champion(self) -> str:
        return MlflowClient(self.tracking_uri).get_model_version_by_alias("sextet", "champion").tags["bundle"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("retrain"))
    (shop.folder / "shop").mkdir(exist_ok=True)
    output = shop.retrain(90, *LENIENT)
    assert "retraining: full" in output
    assert f"published {shop.current()}" in output
    return shop


def test_the_first_one_is_published(shop: Shop) -> None:
    assert shop.champion() == shop.current()
    assert [(line["mode"], line["published"]) for line in shop.decisions()] == [("full", True)]
    assert len(Recommender.load(shop.root).recommend(_guest()).items) == 6


@pytest.mark.slow
def test_a_shop_that_grows(shop: Shop) -> None:
    first = shop.current()
    output = shop.retrain(90, *LENIENT)
    assert f"kept what serves: {first} has learned from this log already" in output
    # Of ten days, 60 checkouts, weights get worse, and the gate keeps the champion.
    output = shop.retrain(117, *LENIENT)
    assert "retraining: incremental" in output
    second = shop.current()
    assert second != first, output
    assert [line["mode"] for line in shop.decisions()] == ["full", "incremental"]
    assert shop.champion() == second
    output = shop.retrain(118, "retrain.full_every=10", *LENIENT)  # the full one is 28 days old
    assert "retraining: full" in output


@pytest.mark.slow
def test_a_poisoned_day_is_stopped(shop: Shop, tmp_path: Path) -> None:
    """The items of later orders are shuffled: outcomes do not follow the champion, which keeps serving."""
    before = shop.current()
    file = shop.folder / "shop" / "orders.csv"
    clean = file.read_text()
    rows = list(csv.DictReader(clean.splitlines()))
    late = [k for k, row in enumerate(rows) if row["ts"] >= iso(START + 50 * DAY)]
    sources = np.random.default_rng(0).permutation(late)
    lines = [{name: rows[k][name] for name in ("item_id", "price")} for k in sources]
    for k, line in zip(late, lines, strict=True):
        rows[k] |= line
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    output = shop.retrain(120, "retrain.gates.quality=0.05", "data.bad_rows=quarantine", *LENIENT[1:])
    file.write_text(clean)
    assert "kept what serves" in output, output
    assert shop.current() == before
    last = shop.decisions()[-1]
    assert not last["published"]
    assert "calibration slope" in {gate["name"] for gate in last["gates"] if not gate["passed"]}
    output = shop.retrain(120, "retrain.mode=full", *LENIENT)
    assert "published" in output


@pytest.mark.slow
def test_killed_at_any_stage_the_champion_serves_and_the_next_one_finishes(shop: Shop) -> None:
    """Each attempt resumes the one before and is killed after the next stage."""
    before = shop.current()
    arguments = shop.arguments(130, "trainer.checkpoint_every=1", *LENIENT)
    for _ in range(4):
        done = command("-c", KILLED_AT_NEXT_STAGE, *arguments)
        assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
        assert shop.current() == before
    shop.retrain(130, "trainer.checkpoint_every=1", *LENIENT)
    assert shop.current() != before
    assert shop.champion() == shop.current()


@pytest.mark.slow
def test_one_at_a_time_and_unknown_modes(shop: Shop) -> None:
    with (shop.root / ".retrain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another retraining of this bundle is under way" in shop.retrain(90)
    wrong = command(*shop.arguments(135, "retrain.mode=sometimes"))
    assert wrong.returncode == 1
    assert "retrain.mode=sometimes: expected auto, full, incremental" in wrong.stderr


def test_an_empty_bundle_root_is_refused() -> None:
    with pytest.raises(ExportError, match=r"bundle\.dir= is empty"):
        open_root("")


def test_a_bundle_root_behind_a_uri_is_published_there(
    bucket: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_root, "__defaults__", (tmp_path / "bundles",))
    root = open_root(bucket("bundle"))
    challenger = root / CHALLENGER_FOLDER / "20240101T000000Z-a"
    challenger.mkdir(parents=True)
    (challenger / "manifest.json").write_text("{}")
    promote_challenger(challenger, root)
    assert RemoteFolder(bucket("bundle")).read_text("current") == challenger.name
    assert pull_current(local_root(bucket("bundle"), tmp_path / "serving")) == challenger.name
    assert os.readlink(root / "current") == challenger.name


def _guest() -> Checkout:
    return Checkout(user_id=None, basket=[], ts=START + 100 * DAY)
