"""Rollback to an earlier version; every reader of `current` finds one."""

import os
import threading
import time
from pathlib import Path

import pytest

from serving import BundleError, Recommender
from serving.cli import main
from serving.rollback import roll_back
from serving.storage.versions import list_versions, set_current_version
from tests.serving.conftest import NAMES


def test_the_previous_good_version(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_versions(root) == [*NAMES]
    assert main(["rollback", "--bundle", str(root)]) == 0
    printed = capsys.readouterr()
    assert f"{NAMES[1]} was passed over" in printed.err
    assert printed.out == f"{root / 'current'} -> {NAMES[0]} (before: {NAMES[2]})\n"
    assert Recommender.load(root).bundle.version == NAMES[0]
    assert main(["rollback", "--bundle", str(root)]) == 1
    assert f"no good version older than {NAMES[0]}" in capsys.readouterr().err
    assert main(["rollback", "--bundle", str(root), "--to", NAMES[2]]) == 0
    assert os.readlink(root / "current") == NAMES[2]


def test_a_named_version(root: Path) -> None:
    for to, reason in (
        (NAMES[1], "ranker.ts"),
        ("other", f"choose one of {NAMES[0]}"),
        (".partial-1", "no version"),
    ):
        with pytest.raises(BundleError, match=reason):
            roll_back(root, to)
        assert os.readlink(root / "current") == NAMES[2]
    with pytest.raises(BundleError, match="no bundle root"):
        roll_back(root / NAMES[0])
    assert not [name for name in os.listdir(root) if name.startswith(".current")]


def test_every_reader_finds_a_version(root: Path) -> None:
    stop, missing = threading.Event(), 0

    def switch() -> None:
        for k in range(300):
            set_current_version(root, NAMES[k % 2])
        stop.set()

    thread = threading.Thread(target=switch)
    thread.start()
    while not stop.is_set():
        missing += not (root / "current" / "manifest.json").is_file()
        time.sleep(0)
    thread.join()
    assert missing == 0
