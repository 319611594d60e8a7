import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from serving import Checkout, Recommender
from serving.events import impression_log
from serving.storage.bundle import read_arrow
from serving.storage.golden_requests import read_golden_requests
from serving.storage.versions import set_current_version
from tests.conftest import BuildOnce

ARCHIVE_OF_FORMAT_8 = Path(__file__).parents[1] / "fixtures" / "release_format_8.tar.xz"
NAMES = ("20240101T000000Z-a", "20240201T000000Z-b", "20240301T000000Z-c")  # versions of `root`


@pytest.fixture(scope="session")
def release(build_once: BuildOnce) -> Path:
    """Bundle, store, log, shop and artifacts of the release that wrote format 8; do not change them."""

    def extract(folder: Path) -> Path:
        with tarfile.open(ARCHIVE_OF_FORMAT_8) as archive:
            archive.extractall(folder, filter="data")
        return folder

    return build_once("release-format-8", extract)


@pytest.fixture(scope="session")
def roomy_version(run_folder: Path, build_once: BuildOnce) -> Path:
    """A version folder with rows for new items; do not change it."""
    from tests.exporting.bundles import make_bundle  # late, as in tests/conftest.py

    return build_once("roomy-bundle", lambda folder: make_bundle(run_folder, folder, "bundle.spare_items=50"))


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    """A version folder to break."""
    return Path(shutil.copytree(version, tmp_path / version.name))


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """A loaded recommender with a store; do not change it."""
    return Recommender.load(version.parent, version.parent / "store.arrow")


@pytest.fixture
def recommender(version: Path) -> Recommender:
    """A recommender with a store, to break."""
    return Recommender.load(version, version.parent / "store.arrow")


@pytest.fixture
def golden_checkout(recommender: Recommender) -> Checkout:
    """A golden request, with a history of its own."""
    return read_golden_requests(recommender.bundle)[0][0]


@pytest.fixture
def user_checkout(golden_checkout: Checkout) -> Checkout:
    """The same of a user whose history the store has."""
    return replace(golden_checkout, user_id="u001", history=None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that writes every 10 ms."""
    monkeypatch.setattr(impression_log, "FLUSH_INTERVAL_S", 0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def root(version: Path, tmp_path: Path) -> Path:
    """A bundle root of three versions: the last is `current`, the second broken; titles name the version."""
    from exporting.bundle import write_arrow  # late, as in tests/conftest.py
    from tests.exporting.bundles import reseal

    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(version.parent / "store.arrow", root)
    for name in NAMES:
        folder = Path(shutil.copytree(version, root / name))
        items = read_arrow(str(folder / "items.arrow"))
        titles = pa.array([f"{title} of {name}" for title in items["title"].to_pylist()])
        changed = items.set_column(items.column_names.index("title"), "title", titles)
        write_arrow(changed.combine_chunks(), tmp_path / "items.arrow")
        os.replace(tmp_path / "items.arrow", folder / "items.arrow")
        reseal(folder, version=name)
    ranker = root / NAMES[1] / "ranker.ts"
    ranker.write_bytes(ranker.read_bytes()[:-1000])
    (root / ".partial-1").mkdir()
    set_current_version(root, NAMES[2])
    return root
