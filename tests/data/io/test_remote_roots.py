"""Finished folders behind a URI: complete or absent on every machine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data.io import remote_roots
from data.io.remote_roots import is_complete, local_root, publish
from serving.remote import RemoteError, RemoteFolder, join_uri, split_uri

MARKER = "done.json"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a machine of this name the one that the test works on."""

    def use(name: str) -> None:
        monkeypatch.setattr(remote_roots, "CACHE", tmp_path / name)

    use("first")
    return use


def finish(folder: Path) -> None:
    (folder / "last.ckpt").mkdir(parents=True)
    (folder / "last.ckpt" / "shard").write_text("only here")
    (folder / "inner").mkdir()
    (folder / "inner" / "weights.pt").write_text("weights")
    (folder / MARKER).write_text("{}")


def test_what_one_machine_finished_is_complete_on_another(
    machine: Callable[[str], None], bucket: Callable[[str], str]
) -> None:
    uri = bucket("runs")
    folder = local_root(uri) / "ranker-1"
    assert not is_complete(folder, MARKER)
    finish(folder)
    publish(folder, MARKER)
    assert set(RemoteFolder(uri).list_files()) == {"ranker-1/done.json", "ranker-1/inner/weights.pt"}
    machine("second")
    copy = local_root(uri) / "ranker-1"
    assert copy != folder
    assert is_complete(copy, MARKER)
    assert (copy / "inner" / "weights.pt").read_text() == "weights"


def test_an_upload_that_was_interrupted_is_not_complete_and_is_done_again(
    machine: Callable[[str], None], bucket: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket("runs")
    folder = local_root(uri) / "ranker-1"
    finish(folder)
    RemoteFolder(uri).upload(folder, ["inner/weights.pt"], "ranker-1")  # and no marker
    machine("second")
    assert not is_complete(local_root(uri) / "ranker-1", MARKER)
    machine("first")
    assert is_complete(folder, MARKER)
    machine("second")
    assert is_complete(local_root(uri) / "ranker-1", MARKER)


def test_a_folder_inside_of_a_finished_one_is_published_alone(
    machine: Callable[[str], None], bucket: Callable[[str], str]
) -> None:
    uri = bucket("runs")
    report = local_root(uri) / "ranker-1" / "evaluation-test"
    report.mkdir(parents=True)
    (report / MARKER).write_text("{}")
    publish(report, MARKER)
    assert set(RemoteFolder(uri).list_files()) == {"ranker-1/evaluation-test/done.json"}


def test_other_roots(machine: Callable[[str], None], tmp_path: Path) -> None:
    assert local_root(tmp_path) == tmp_path
    publish(tmp_path / "ranker-1", MARKER)  # does nothing
    with pytest.raises(RemoteError, match="ftp:// is not supported"):
        local_root("ftp://server/runs")


def test_uris_keep_their_options_at_the_end() -> None:
    assert join_uri("s3://shop/runs/?region=x", "latest") == "s3://shop/runs/latest?region=x"
    assert split_uri("s3://shop/runs/latest?region=x") == ("s3://shop/runs?region=x", "latest")
