"""What tests of monitoring start from."""

from pathlib import Path

import pytest

from serving import Recommender


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """Answers from the small bundle of all tests; do not change it."""
    return Recommender.load(version)
