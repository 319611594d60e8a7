"""A bundle root behind a URI: published last, copied whole, followed."""

import os
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
from serving.storage.bundle import MANIFEST
from serving.storage.bundle_mirror import bundle_path, local_root, pull_current, refresh
from serving.storage.paths import CURRENT
from serving.storage.signatures import SIGNATURE, sign_file
from tests.serving.storage.test_signatures import write_key


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


def test_old_versions_of_the_copy_are_removed(
    version: Path,
    bucket: Callable[[str], str],
    machine: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """The newest three stay, and those that are served; what a killed process left goes."""
    uri, root = bucket("bundle"), tmp_path / "copy"
    names = [f"2024010{day}T000000Z-a" for day in range(1, 7)]
    machine("training")
    long_ago = 1_700_000_000
    root.mkdir()
    (root / ".download-20231231T000000Z-a-x").mkdir()
    for name in names:
        publish_copy(version, uri, name)
        assert main(["pull", "--bundle", uri, "--to", str(root)]) == 0
        os.utime(root / name, (long_ago, long_ago))
        refresh(root, [names[1]])  # a service answers from it
    assert sorted(path.name for path in root.iterdir() if path.is_dir() and not path.is_symlink()) == [
        names[1], *names[3:],
    ]  # fmt: skip
    Recommender.load(root)
    RemoteFolder(uri).write_text(CURRENT, names[0])  # an old version is published again
    os.utime(root / names[1], (long_ago, long_ago))
    pull_current(root, RemoteFolder(uri), n_kept=1)
    assert {path.name for path in root.glob("2024*")} == {names[0], names[-1]}
    assert (root / CURRENT).resolve().name == names[0]


def test_pull_leaves_a_folder_that_other_users_serve(
    version: Path, bucket: Callable[[str], str], machine: Callable[[str], Path], tmp_path: Path
) -> None:
    uri, root = bucket("bundle"), tmp_path / "deep" / "copy"
    machine("training")
    publish_copy(version, uri, "20240101T000000Z-a")
    assert main(["pull", "--bundle", uri, "--to", str(root)]) == 0
    files = [path for path in root.rglob("*") if not path.is_symlink() and not path.name.startswith(".")]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
    assert not bundle_mirror.is_mirror(root)  # who serves it need not write there


def test_pull_refuses(bucket: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for uri, words in ((bucket("nothing"), "no version is published"), ("/srv/x", "is not supported")):
        assert main(["pull", "--bundle", uri, "--to", str(tmp_path / "copy")]) == 1
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["pull", "--bundle", "s3://a/b", "--to", str(tmp_path), "--keep", "0"])
    assert "--keep" in capsys.readouterr().err


def test_a_signature_travels_with_its_version(
    copy: Path, bucket: Callable[[str], str], machine: Callable[[str], Path], tmp_path: Path
) -> None:
    key = write_key(tmp_path, "shop")
    sign_file(copy / MANIFEST, copy / SIGNATURE, key)
    uri = bucket("bundle")
    machine("training")
    publish_copy(copy, uri, "20240101T000000Z-a")
    machine("serving")
    arguments = ["recommend", "--bundle", uri, "--user", "u001", "--items", "i001", "--trust"]
    assert main([*arguments, str(key.with_suffix(".pem"))]) == 0
    assert main([*arguments, str(write_key(tmp_path, "other").with_suffix(".pem"))]) == 1
