"""Small shops with one thing each that real shops have, where their generator lies beside the project."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from data.errors import DataError
from data.shop_check import ShopReport, check_shop
from tests.data.conftest import config

GENERATOR = Path(__file__).resolve().parents[3] / "shared" / "cases" / "make.py"
SEMICOLONS = {"csv": {"delimiter": ";", "decimal": ","}}
CASES: dict[str, tuple[dict[str, Any], str]] = {  # case → settings, words of its report or of the error
    "float_ids": ({}, "error: has 40 ids such as '0.0'"),
    "lost_zeros": ({}, "error: 30 ids differ by leading zeros alone"),
    "guests": ({}, "orders of guests: 205"),
    "one_time_buyers": ({}, "Nobody ordered twice"),
    "shop_time": ({}, "orders: 620"),
    "category_spelling": ({}, "orders: 620"),
    "huge_line": ({}, "lines of absurd size, winsorised: 35"),
    "empty_column": ({}, "orders: 620"),
    "semicolons": (SEMICOLONS, "orders: 620"),
    "partitioned": ({}, "month (how its files are kept)"),
    "gzipped": ({}, "orders: 620"),
    "double_clicks": ({}, "repeated rows, counted once (events): 207"),
    "item_attributes": ({}, "color, weight_kg"),
    "quiet_week": ({}, "users: 300"),
}


@pytest.mark.skipif(not GENERATOR.is_file(), reason="the generator of the cases is not here")
@pytest.mark.parametrize("case", CASES)
def test_a_case_is_read_or_refused_with_its_remedy(case: str, tmp_path: Path) -> None:
    settings, words = CASES[case]
    subprocess.run([sys.executable, str(GENERATOR), case, str(tmp_path / case)], check=True)
    try:
        found = told(check_shop(config(tmp_path / case, **settings)))
    except DataError as error:
        found = f"error: {error}"
    expected = words.removeprefix("error: ")
    assert expected in found
    assert found.startswith("error: ") == words.startswith("error: ")


def told(report: ShopReport) -> str:
    """All that a report tells, in one text."""
    facts = [f"{row['fact']}: {row['value']}" for row in report.facts]
    tables = [f"{row['attributes']} {row['unread']}" for row in report.tables]
    return "\n".join([report.finding(), *facts, *tables, *report.warnings])
