"""Stage folders: one process at a time, manifests that are whole, and a link to the latest run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from data.io.code_hash import module_closure
from training.stage_folders import (
    STAGE_MANIFEST,
    is_done,
    link_run,
    lock_folder,
    read_stage_manifest,
    stage_folder,
    write_stage_manifest,
)

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from training.stage_folders import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def start_holder(folder: Path) -> subprocess.Popen[str]:
    """A process that locks the folder until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("dies", [False, True])
def test_a_process_waits_until_the_lock_is_free(tmp_path: Path, dies: bool) -> None:
    first = start_holder(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "locked\n"
    second = start_holder(tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == f"waiting for another process that works on {tmp_path.name}\n"
    if dies:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    else:
        first.communicate("")
    assert second.stdout.readline() == "locked\n"
    second.communicate("")
    assert second.returncode == 0


def test_a_lock_can_be_taken_again_and_leaves_the_time_of_its_file(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        pass
    file = tmp_path / ".lock"
    os.utime(file, (1000, 1000))
    with lock_folder(tmp_path):
        pass
    assert file.stat().st_mtime == 1000, "the start of the stage"


def test_a_folder_is_keyed_by_settings_and_the_code_of_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "own_network.py"
    network.write_text("WIDTH = 8\n")
    monkeypatch.syspath_prepend(tmp_path)

    def folder(width: int, target: str = "own_network.Network") -> Path:
        settings = OmegaConf.create({"multitask": {"_target_": target, "width": width}})
        return stage_folder(tmp_path / "runs", "ranker", "training.ranker_stage", settings, "candidates-1")

    first = folder(8)
    assert first.parent == tmp_path / "runs"
    assert first.name.startswith("ranker-")
    assert folder(8) == first
    assert folder(16) != first
    network.write_text("WIDTH = 8  # units\n")
    assert folder(8) == first
    network.write_text("WIDTH = 9\n")
    assert folder(8) != first


def test_a_manifest_appears_as_a_whole(tmp_path: Path) -> None:
    assert not is_done(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not finished"):
        read_stage_manifest(tmp_path)
    write_stage_manifest(tmp_path, {"metrics": {"recall_300": 0.5}})
    assert read_stage_manifest(tmp_path) == {"metrics": {"recall_300": 0.5}}
    assert [file.name for file in tmp_path.iterdir()] == [STAGE_MANIFEST]


def test_latest_points_to_the_last_finished_run(tmp_path: Path) -> None:
    for name in ("ranker-1", "ranker-2"):
        (tmp_path / name).mkdir()
        link_run(tmp_path, tmp_path / name)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert os.readlink(tmp_path / "latest") == "ranker-2", "relative: a project can be moved"
    assert {file.name for file in tmp_path.iterdir()} == {"ranker-1", "ranker-2", "latest"}


def test_code_of_the_ranker_is_none_of_the_retrieval_stage() -> None:
    files, _ = module_closure(["training.retrieval_stage"])
    assert "models.retrieval.losses" in files
    assert not [name for name in files if name.startswith("models.ranking")]
