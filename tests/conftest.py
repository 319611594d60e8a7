"""What several rooms' tests start from; imported late, for TorchRec takes seconds."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; do not change it."""
    from tests.exporting.bundles import make_run

    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def version(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder below a bundle root; do not change it."""
    from tests.exporting.bundles import make_bundle

    return make_bundle(run_folder, tmp_path_factory.mktemp("bundle"))
