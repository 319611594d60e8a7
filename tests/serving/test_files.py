"""Files appear as a whole, and one process at a time holds a lock."""

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from serving.files import lock_descriptor, write_atomically, write_json

FORK = multiprocessing.get_context("fork")


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_appears_when_it_is_complete(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with write_atomically(path, sync) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail() -> None:
        with write_atomically(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_json_has_null_for_numbers_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "rows.json"
    write_json(path, [{"metric": "ndcg", "values": (0.5, math.nan, -math.inf)}])
    assert json.loads(path.read_text()) == [{"metric": "ndcg", "values": [0.5, None, None]}]
    assert os.listdir(path.parent) == ["rows.json"]


@pytest.mark.parametrize("name", ["lock", "."])
def test_one_process_at_a_time_holds_a_lock(tmp_path: Path, name: str) -> None:
    """Of a file and of a folder."""
    (tmp_path / "lock").touch()

    def lock() -> tuple[int, bool]:
        fd = os.open(tmp_path / name, os.O_RDONLY)
        return fd, lock_descriptor(fd)

    def lock_and_exit() -> None:
        os._exit(0 if lock()[1] else 1)

    def locked_elsewhere() -> bool:
        child = FORK.Process(target=lock_and_exit)
        child.start()
        child.join(60)
        return child.exitcode == 0

    fd, is_held = lock()
    assert is_held
    assert not locked_elsewhere()
    second_fd, is_held_twice = lock()
    assert not is_held_twice
    os.close(second_fd)
    os.close(fd)
    assert locked_elsewhere()
    assert locked_elsewhere()  # the process before died with the lock
