import shutil
from pathlib import Path

import pytest

from serving import Recommender
from tests.exporting.bundles import make_bundle, make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serving_run"))


@pytest.fixture(scope="session")
def version(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder below a bundle root; do not change it."""
    return make_bundle(run_folder, tmp_path_factory.mktemp("serving_bundle"))


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    """A version folder to break."""
    return Path(shutil.copytree(version, tmp_path / version.name))


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """A loaded recommender with a store; do not change it."""
    return Recommender.load(version.parent, version.parent / "store.arrow")
