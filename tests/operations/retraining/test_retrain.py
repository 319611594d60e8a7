"""retrain.py on a shop that grows: full, incremental, nothing new, poisoned, killed."""

import csv
import fcntl
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from operations.retraining.retrain import DECISIONS_FILE
from serving import Checkout, Recommender
from serving.storage.versions import CHALLENGER_FOLDER
from tests.data.shop import DAY, START, iso, write_shop
from tests.end_to_end.commands import command, start

LOOSE = ["retrain.gates.quality=0.9", "retrain.gates.calibration=20", "retrain.gates.drift=99"]


class Shop:
    """A folder with a shop, its bundle and what retraining leaves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "bundle"
        write_shop(folder / "shop", users=40, items=60, days=140)

    def arguments(self, day: int, *more: str) -> list[str]:
        return [
            "retrain.py", "experiment=debug", "data=tables", f"data.root={self.folder / 'shop'}",
            "data.horizon=7d", f"data.until='{iso(START + day * DAY)}'", f"bundle.dir={self.root}",
            f"paths.prepared={self.folder / 'prepared'}", f"paths.runs={self.folder / 'runs'}",
            f"mlflow.tracking_uri={self.tracking}", *more,
        ]  # fmt: skip

    @property
    def tracking(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    def retrain(self, day: int, *more: str) -> str:
        done = command(*self.arguments(day, *more))
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def current(self) -> str:
        return os.readlink(self.root / "current")

    def decisions(self) -> list[dict]:
        return [json.loads(line) for line in (self.root / DECISIONS_FILE).read_text().splitlines()]

    def champion(self) -> str:
        return MlflowClient(self.tracking).get_model_version_by_alias("sextet", "champion").tags["bundle"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = Shop(tmp_path_factory.mktemp("retrain"))
    (made.folder / "shop").mkdir(exist_ok=True)
    said = made.retrain(90, *LOOSE)
    assert "retraining: full" in said
    assert f"published {made.current()}" in said
    return made


def test_the_first_one_is_published(shop: Shop) -> None:
    assert shop.champion() == shop.current()
    assert [(line["mode"], line["published"]) for line in shop.decisions()] == [("full", True)]
    assert len(Recommender.load(shop.root).recommend(_guest()).items) == 6


@pytest.mark.slow
def test_a_shop_that_grows(shop: Shop) -> None:
    first = shop.current()
    said = shop.retrain(90, *LOOSE)
    assert f"kept what serves: {first} has learned from this log already" in said
    said = shop.retrain(100, *LOOSE)
    assert "retraining: incremental" in said
    second = shop.current()
    assert second != first
    assert [line["mode"] for line in shop.decisions()] == ["full", "incremental"]
    assert shop.champion() == second
    said = shop.retrain(105, "retrain.full_every=10", *LOOSE)  # the full one is 15 days old
    assert "retraining: full" in said


@pytest.mark.slow
def test_a_poisoned_day_is_stopped(shop: Shop, tmp_path: Path) -> None:
    """Everyone's next orders are someone else's: outcomes do not follow the champion, which stays."""
    before = shop.current()
    file = shop.folder / "shop" / "orders.csv"
    clean = file.read_text()
    rows = list(csv.DictReader(clean.splitlines()))
    late = [k for k, row in enumerate(rows) if row["ts"] >= iso(START + 50 * DAY)]
    moved = np.random.default_rng(0).permutation(late)
    for k, (item, price) in zip(late, [(rows[m]["item_id"], rows[m]["price"]) for m in moved], strict=True):
        rows[k] |= {"item_id": item, "price": price}
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    said = shop.retrain(120, "retrain.gates.quality=0.05", "data.bad_rows=quarantine", *LOOSE[1:])
    file.write_text(clean)
    assert "kept what serves" in said, said
    assert shop.current() == before
    last = shop.decisions()[-1]
    assert not last["published"]
    assert "log" in {gate["name"] for gate in last["gates"] if not gate["passed"]}
    again = shop.retrain(120, "retrain.mode=full", *LOOSE)
    assert "published" in again


@pytest.mark.slow
def test_killed_anywhere_the_champion_serves_and_the_next_one_ends(shop: Shop) -> None:
    """Killed at each of its stages in turn, by what each leaves."""
    before, run_folders = shop.current(), set((shop.folder / "runs").iterdir())
    arguments = shop.arguments(130, "trainer.checkpoint_every=1", *LOOSE)

    def stages() -> list[Path]:
        return [
            *(set((shop.folder / "runs").glob("*-*/done.json"))
              - {folder / "done.json" for folder in run_folders}),
            *(shop.root / CHALLENGER_FOLDER).glob(".partial-*/query_tower.ts"),
        ]  # fmt: skip

    for seen in range(1, 5):
        process = start(*arguments)
        deadline = time.monotonic() + 240
        while len(stages()) < seen and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # leaves the processor to the training
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            assert shop.current() == before
        process.wait()
    shop.retrain(130, "trainer.checkpoint_every=1", *LOOSE)
    assert shop.current() != before
    assert shop.champion() == shop.current()


@pytest.mark.slow
def test_one_at_a_time_and_wrong_words(shop: Shop) -> None:
    with (shop.root / ".retrain.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another retraining of this bundle is under way" in shop.retrain(90)
    wrong = command(*shop.arguments(135, "retrain.mode=sometimes"))
    assert wrong.returncode == 1
    assert "retrain.mode=sometimes: expected auto, full or incremental" in wrong.stderr


def _guest() -> Checkout:
    return Checkout(user_id=None, basket=[], ts=START + 100 * DAY)
