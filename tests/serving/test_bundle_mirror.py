"""A bundle root behind a URI: published last, copied whole, followed."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporting.bundle import publish
from serving import Recommender
from serving.bundle_watcher import BundleWatcher
from serving.cli import main
from serving.remote import RemoteError, RemoteFolder
from serving.rollback import roll_back
from serving.storage import bundle_mirror
from serving.storage.bundle_mirror import bundle_path, local_root, pull_current, refresh
from serving.storage.paths import CURRENT


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Name of a machine → its cache of bundles, which becomes the one in use."""

    def use(name: str) -> Path:
        cache = tmp_path / name
        monkeypatch.setattr(local_root, "__defaults__", (cache,))
        return cache

    return use  # type: ignore[return-value]


def publish_copy(version: Path, uri: str, name: str) -> str:
    """Publish a version of the shared bundle under another name."""
    root = local_root(uri)
    partial = root / f".{name}"
    shutil.copytree(version, partial)
    publish(partial, root, name)
    return name


def test_an_export_serves_on_another_machine(
    version: Path, bucket: Callable[[str], str], machine: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    uri = bucket("bundle")
    machine("training")
    publish_copy(version, uri, "20240101T000000Z-a")
    cache = machine("serving")
    assert main(["recommend", "--bundle", uri, "--user", "u001", "--items", "i001"]) == 0
    assert "ranked" in capsys.readouterr().out
    root = bundle_path(uri)
    assert cache in root.parents
    assert (root / CURRENT).resolve().name == "20240101T000000Z-a"
    machine("training")
    publish_copy(version, uri, "20240201T000000Z-b")
    assert pull_current(root) == "20240201T000000Z-b"
    assert roll_back(root)[0] == "20240101T000000Z-a"
    assert RemoteFolder(uri).read_text(CURRENT) == "20240101T000000Z-a"


def test_a_service_follows(
    version: Path,
    bucket: Callable[[str], str],
    machine: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = bucket("bundle")
    machine("training")
    publish_copy(version, uri, "20240101T000000Z-a")
    machine("serving")
    root = bundle_path(uri)
    watcher = BundleWatcher(root, Recommender.load)
    watcher.poll()
    assert watcher.recommender is not None
    before = watcher.recommender
    machine("training")
    publish_copy(version, uri, "20240201T000000Z-b")
    watcher.poll()
    assert watcher.recommender is before, "the storage is asked every ten seconds"
    monkeypatch.setattr(bundle_mirror, "POLL_INTERVAL_S", 0.0)
    watcher.poll()
    assert watcher.recommender.bundle.folder.name == "20240201T000000Z-b"
    monkeypatch.setattr(
        bundle_mirror,
        "_remote",
        lambda root: RemoteFolder(
            "s3://shop/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1&request_timeout=1&connect_timeout=1"
        ),
    )
    watcher.poll()  # the storage is away
    assert watcher.recommender.bundle.folder.name == "20240201T000000Z-b"


def test_what_was_downloaded_in_part_is_not_there(
    version: Path,
    bucket: Callable[[str], str],
    machine: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = bucket("bundle")
    machine("training")
    publish_copy(version, uri, "20240101T000000Z-a")
    machine("serving")
    root = local_root(uri)
    download, count = RemoteFolder.download, iter(range(100))

    def fail_late(*arguments: object) -> None:
        if next(count) >= 2:
            raise RemoteError("killed")
        download(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "download", fail_late)
        with pytest.raises(RemoteError):
            refresh(root)
    assert not (root / CURRENT).exists()
    assert not list(root.glob("2024*"))
    pull_current(root)
    Recommender.load(root)


def test_nothing_published_and_other_schemes(
    bucket: Callable[[str], str], machine: Callable[[str], Path], capsys: pytest.CaptureFixture
) -> None:
    machine("serving")
    for uri, words in ((bucket("nothing"), "no version is published"), ("ftp://x/y", "is not supported")):
        with pytest.raises(SystemExit):
            main(["recommend", "--bundle", uri, "--user", "u001"])
        assert words in capsys.readouterr().err
