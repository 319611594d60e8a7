"""A small shop on disk, and the configuration that prepares it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.shop import make_shop, write_csv

CONFIGS = Path(__file__).parents[2] / "configs"


def config(folder: Path, **data: Any) -> dict[str, Any]:
    """The composed groups as a plain dict, for the tables in `folder`; `data` overrides `cfg.data`."""
    groups = {
        "data": yaml.safe_load((CONFIGS / "data" / "tables.yaml").read_text()),
        "features": yaml.safe_load((CONFIGS / "features" / "default.yaml").read_text()),
        "paths": {"prepared": str(folder / "prepared")},
    }
    groups["data"] |= {"root": str(folder), **data}
    groups["prepare"] = {"threads": 2, "memory_limit": "1GB"}
    groups["features"]["token_min_items"] = 1
    return groups


@pytest.fixture
def shop(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """(folder, tables) of a shop of 20 users; change the tables and write them again with `save`."""
    tables = make_shop(users=20, items=32, days=70)
    save(tmp_path, tables)
    return tmp_path, tables


def save(folder: Path, tables: dict[str, Any]) -> None:
    for name, rows in tables.items():
        write_csv(folder / f"{name}.csv", rows)
