"""Files appear as a whole, and one process at a time holds a lock."""

import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest

from serving.files import lock_file, write_atomically, write_json

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
    """Of a file, which need not exist, and of a folder."""

    def locked_elsewhere(wait: bool) -> bool:
        child = FORK.Process(target=hold, args=[wait])
        child.start()
        child.join(60)
        return child.exitcode == 0

    def hold(wait: bool) -> None:
        with lock_file(tmp_path / name, wait) as is_held:
            os._exit(0 if is_held else 1)

    with lock_file(tmp_path / name) as is_held:
        assert is_held
        assert not locked_elsewhere(wait=False)
        with lock_file(tmp_path / name) as is_held_twice:
            assert not is_held_twice
    assert locked_elsewhere(wait=False)
    assert locked_elsewhere(wait=True)
