"""A bundle with low click probabilities, as in a real shop, and a live shop that it serves."""

from pathlib import Path

import pytest
import torch

from serving import Recommender
from tests.data.shop import make_shop
from tests.operations.monitoring import live

USERS = 140


@pytest.fixture(scope="session")
def low_click(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    """A bundle with p(click) near .15; do not change it."""
    from tests.exporting.bundles import make_bundle, make_run  # late, as in tests/conftest.py

    folder = tmp_path_factory.mktemp("low_click")
    run = make_run(folder)
    weights = torch.load(run / "weights.pt")
    weights["multitask.towers.0.2.bias"] -= 2.3
    weights["multitask.towers.1.2.bias"] -= 0.5
    torch.save(weights, run / "weights.pt")
    return Recommender.load(make_bundle(run, folder / "bundle"))


@pytest.fixture(scope="session")
def shared(version: Path) -> Recommender:
    """The small bundle of all tests; do not change it."""
    return Recommender.load(version)


@pytest.fixture(scope="session")
def tables() -> live.Tables:
    """A shop before the first slate; do not change it."""
    return make_shop(USERS, 80, 90 + live.LIVE_DAYS, seed=5)


@pytest.fixture(scope="session")
def clean(low_click: Recommender, tables: live.Tables) -> live.LiveShop:
    """A shop without faults; do not change it."""
    return live.simulate(low_click, tables)


@pytest.fixture(scope="session")
def clean_shop(clean: live.LiveShop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its tables and log; do not change them."""
    return live.write(tmp_path_factory.mktemp("clean"), clean)
