"""Settings that make no sense for a shop are named before training; those of a sound shop are not."""

from pathlib import Path
from typing import Any

import pytest

from data.examples.outcome_counts import widen_split
from data.examples.setting_warnings import split_warnings
from data.shop_check import check_shop
from tests.data.conftest import config, save
from tests.data.shop import make_shop

Tables = dict[str, list[dict[str, Any]]]


def warnings_of(folder: Path, tables: Tables, **data: Any) -> list[str]:
    save(folder, tables)
    return check_shop(config(folder, **data)).warnings


@pytest.fixture
def tables() -> Tables:
    return make_shop(users=60, items=80, days=70)


def test_a_sound_shop_has_no_warning(tmp_path: Path, tables: Tables) -> None:
    assert warnings_of(tmp_path, tables) == []
    assert warnings_of(tmp_path, tables, horizon="next_order") == []


def test_a_horizon_in_which_hardly_anyone_buys(tmp_path: Path, tables: Tables) -> None:
    (warning,) = warnings_of(tmp_path, tables, horizon="2d")
    assert warning.startswith("data.horizon=2d: only 0.0% of the checkouts are followed by an order")
    assert "set data.horizon=14d or next_order" in warning


def test_a_log_shorter_than_its_horizons(tmp_path: Path, tables: Tables) -> None:
    (warning,) = warnings_of(tmp_path, tables, horizon="30d")
    assert "the log covers 70 days, data.horizon=30d" in warning
    assert "set data.horizon=17d" in warning


def test_orders_of_guests_and_of_visits(tmp_path: Path, tables: Tables) -> None:
    for row in tables["orders"]:
        row["user_id"] = "" if int(row["order_id"][1:]) % 5 else row["user_id"]
    warning, *_ = warnings_of(tmp_path, tables)
    assert "80% of the orders are of guests" in warning
    assert "data.columns.orders.user_id=COLUMN" in warning
    for row in tables["orders"]:
        row["user_id"] = row["order_id"]
    del tables["users"]
    (tmp_path / "users.csv").unlink()
    (warning,) = warnings_of(tmp_path, tables)
    assert "users ordered once: check that user_id is the customer's id" in warning


def test_a_catalog_that_hardly_sells(tmp_path: Path, tables: Tables) -> None:
    tables["items"] += [{**tables["items"][0], "item_id": f"unsold{k}"} for k in range(100)]
    (warning,) = warnings_of(tmp_path, tables)
    assert "100 of 180 available items (56%) were never sold" in warning
    tables["items"] = [{**row, "available": not row["item_id"].startswith("u")} for row in tables["items"]]
    assert warnings_of(tmp_path, tables) == []


def test_a_split_of_few_purchases_names_what_to_widen() -> None:
    shares = {"validation_share": 0.1, "test_share": 0.3, "validation_start": None, "test_start": None}
    counts = {"train": 500, "validation": 9, "test": 80}
    (warning,) = split_warnings(counts, shares)
    assert "9 validation checkouts are followed by a purchase" in warning
    assert "Set data.split.validation_share=0.2 (now 0.1)" in warning
    assert widen_split("test", shares) == "Set data.split.test_share=0.4 (now 0.3)"
    dated = {**shares, "test_start": "2024-05-01"}
    assert widen_split("test", dated) == "Move data.split.test_start (2024-05-01) back"


def test_few_titles_for_many_items(tmp_path: Path, tables: Tables) -> None:
    for k, row in enumerate(tables["items"]):
        row["title"] = f"Product {chr(97 + k % 11)}"
    (warning,) = warnings_of(tmp_path, tables)
    assert warning.startswith("80 items have 11 different titles: items of one title count as packs")
