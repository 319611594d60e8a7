from pathlib import Path

import pytest

from tests.exporting.bundles import make_bundle, make_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; do not change it."""
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def version(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder below a bundle root; do not change it."""
    return make_bundle(run_folder, tmp_path_factory.mktemp("bundle"))
