"""The report of a shop's tables: counted as plainly as possible, in text and as a page."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from data.shop_check import check_shop
from reporting.shop_page import shop_page, shop_text
from tests.data.conftest import config, save

DAY = 86_400


def test_horizons_are_counted_as_plainly_as_possible(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    report = check_shop(config(folder))
    times: dict[str, set[float]] = {}
    for row in tables["orders"]:
        times.setdefault(row["user_id"], set()).add(datetime.fromisoformat(row["ts"]).timestamp())
    end = max(max(of_user) for of_user in times.values())
    gaps = [np.diff(sorted(of_user)) / DAY for of_user in times.values()]
    assert report.median_gap == pytest.approx(np.median(np.concatenate(gaps)))
    for row in report.horizons:
        if row["horizon"] == "next_order":
            assert row["over"] == row["followed"] == sum(map(len, gaps))
            continue
        days = int(row["horizon"].removesuffix("d"))
        over = [ts for of_user in times.values() for ts in of_user if ts + days * DAY <= end]
        followed = [
            ts
            for of_user in times.values()
            for ts in of_user
            if ts in over and any(ts < other <= ts + days * DAY for other in of_user)
        ]
        assert (row["over"], row["followed"]) == (len(over), len(followed))


def test_the_report_is_read_in_the_terminal_and_as_a_page(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    guests = sorted({row["order_id"] for row in tables["orders"]})[:3]
    for row in tables["orders"]:
        if row["order_id"] in guests:
            row["user_id"] = ""
    tables["orders"][-1]["item_id"] = "<b>new</b>"
    save(folder, tables)
    report = check_shop(config(folder, horizon="7d"))
    described = report._asdict() | {"finding": report.finding()}
    text, page = shop_text(described), shop_page(described)
    for part in ("orders of guests", "Now data.horizon=7d, ", "orders.csv", "device", "'<b>new</b>'"):
        assert part in text
    assert "&lt;b&gt;new" in page
    assert "<b>new" not in page
    facts = {row["fact"]: row["value"] for row in report.facts}
    assert facts["orders of guests"] == 3
    assert facts["of these, not in the list"] == 1


def test_what_preparation_refuses_is_told(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    tables["orders"][0]["price"] = -1
    save(folder, tables)
    with pytest.raises(DataError, match="price is negative"):
        check_shop(config(folder))


def test_a_shop_where_nobody_returns_is_described(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    for row in tables["orders"]:
        row["user_id"] = row["order_id"]
    (folder / "users.csv").unlink()
    save(folder, {"orders": tables["orders"]})
    report = check_shop(config(folder))
    assert report.suggested is None
    assert "Nobody ordered twice" in report.finding()
    assert "Nobody ordered twice" in shop_page(report._asdict() | {"finding": report.finding()})
