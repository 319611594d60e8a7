"""A bundle whose items are seldom clicked, as in a real shop, and what a live shop makes of it."""

from pathlib import Path

import pytest
import torch

from serving import Recommender
from tests.data.shop import make_shop
from tests.operations.monitoring import live

USERS = 140


@pytest.fixture(scope="session")
def seldom(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """Answers from a bundle with p(click) near .15; do not change it."""
    from tests.exporting.bundles import make_bundle, make_run  # late, as in tests/conftest.py

    folder = tmp_path_factory.mktemp("seldom")
    run = make_run(folder)
    weights = torch.load(run / "weights.pt")
    weights["multitask.towers.0.2.bias"] -= 2.3
    weights["multitask.towers.1.2.bias"] -= 0.5
    torch.save(weights, run / "weights.pt")
    return Recommender.load(make_bundle(run, folder / "bundle"))


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """Answers from the small bundle of all tests; do not change it."""
    return Recommender.load(version)


@pytest.fixture(scope="session")
def tables() -> live.Tables:
    """A shop before anything was shown; do not change it."""
    return make_shop(USERS, 80, 90 + live.LIVE, seed=5)


@pytest.fixture(scope="session")
def clean(seldom: Recommender, tables: live.Tables) -> live.Life:
    """A shop in which nothing is wrong; do not change it."""
    return live.live(seldom, tables)


@pytest.fixture(scope="session")
def clean_shop(clean: live.Life, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables and log; do not change them."""
    return live.write(tmp_path_factory.mktemp("clean"), clean)
