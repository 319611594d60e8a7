import shutil
from pathlib import Path

import pytest

from serving import Recommender, impressions


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    """A version folder to break."""
    return Path(shutil.copytree(version, tmp_path / version.name))


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """A loaded recommender with a store; do not change it."""
    return Recommender.load(version.parent, version.parent / "store.arrow")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that writes all the time."""
    monkeypatch.setattr(impressions, "FLUSH", 0.01)
