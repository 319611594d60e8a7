"""Errors show the values that cannot be read, and the setting that probably reads them."""

from pathlib import Path
from typing import Any

import ibis
import pytest

from data.errors import DataError
from data.shop_check import check_shop
from data.sources import tables as source
from data.tables.bad_values import fitting_formats
from data.tables.checks import CheckResult, check_tables
from data.tables.contract import conform
from tests.data.conftest import config, save

Shop = tuple[Path, dict[str, Any]]


def checked(folder: Path, bad_rows: str, **csv: str) -> CheckResult:
    """The tables after the checks of rows, without the other steps."""
    con = ibis.duckdb.connect(threads=2)
    settings = {"root": str(folder), "csv": csv}
    files = source.table_files(settings)
    raw = source.read_tables(con, settings)
    conformed = {n: con.create_table(f"c_{n}", conform(t, n, files[n])) for n, t in raw.items()}
    return check_tables(con, conformed, files, bad_rows)


def spoil(shop: Shop, every: int, **values: str) -> Path:
    folder, tables = shop
    for row in tables["orders"][::every]:
        row.update(values)
    save(folder, {"orders": tables["orders"]})
    return folder


@pytest.mark.parametrize("bad_rows", ["fail", "quarantine"])
def test_a_wrong_time_format_is_refused_with_the_one_that_fits(shop: Shop, bad_rows: str) -> None:
    folder, tables = shop
    for k, row in enumerate(tables["orders"]):
        row["ts"] = "1/12/2009 8:26" if k % 2 else "12/13/2009 8:26"
    save(folder, {"orders": tables["orders"]})
    with pytest.raises(DataError) as error:
        checked(folder, bad_rows, time_format="%d/%m/%Y %H:%M")
    for part in (
        "ts cannot be read as",
        "'12/13/2009 8:26' does not fit data.csv.time_format='%d/%m/%Y %H:%M'",
        "The values fit data.csv.time_format='%m/%d/%Y %H:%M'",
    ):
        assert part in str(error.value)
    assert ("That is 50% of" in str(error.value)) == (bad_rows == "quarantine")


@pytest.mark.parametrize(
    ("value", "formats"),
    [
        ("12/13/2009 8:26", "'%m/%d/%Y %H:%M'"),
        ("1/12/2009 8:26", "'%m/%d/%Y %H:%M' or '%d/%m/%Y %H:%M'"),
        ("13.12.2009", "'%d.%m.%Y'"),
        ("20091213", "'%Y%m%d'"),
    ],
)
def test_without_a_format_those_that_fit_are_named(shop: Shop, value: str, formats: str) -> None:
    with pytest.raises(DataError, match=f"give its format: data.csv.time_format={formats}"):
        checked(spoil(shop, 1, ts=value), "fail")


def test_a_format_fits_all_values_or_none() -> None:
    assert fitting_formats(["1/12/2009", "13/12/2009"]) == ["%d/%m/%Y"]
    assert fitting_formats(["1/12/2009", "soon"]) == fitting_formats([]) == []


def test_a_few_rejected_rows_are_a_warning(shop: Shop) -> None:
    folder = spoil(shop, 20, price="-1")
    (warning,) = checked(folder, "quarantine").warnings
    assert "of 'orders' (5." in warning
    assert "are rejected: price is negative: " in warning
    assert warning in check_shop(config(folder, bad_rows="quarantine")).warnings


@pytest.mark.parametrize(
    ("price", "csv", "hint"),
    [
        ("1.234,50", {"delimiter": ",", "decimal": "."}, "decimal commas: \"data.csv.decimal=','\""),
        ("1,234.50", {}, "'1,234.50' has a thousands separator: write numbers without it"),
    ],
)
def test_numbers_show_the_value_and_the_remedy(
    shop: Shop, price: str, csv: dict[str, str], hint: str
) -> None:
    with pytest.raises(DataError) as error:
        checked(spoil(shop, 30, price=price), "fail", **csv)
    assert f"price cannot be read as number: 28 ('{price}') (rows 1, 31, 61, 91, 121, …)" in str(error.value)
    assert hint in str(error.value)


def test_a_thousands_separator_beside_decimal_commas_is_shown_as_written(tmp_path: Path) -> None:
    rows = ["order_id;user_id;item_id;ts;quantity;price"]
    rows += [f"o{k};u;i;2026-01-0{k};1;{price}" for k, price in enumerate(("1,5", "1.234,50"), 1)]
    (tmp_path / "orders.csv").write_text("\n".join(rows))
    (tmp_path / "items.csv").write_text("item_id;title\ni;Tea\n")
    with pytest.raises(DataError, match=r"number: 1 \('1\.234,50'\) \(rows 2\); '1\.234,50' has a thousands"):
        checked(tmp_path, "fail", delimiter=";", decimal=",")


def test_booleans_in_words_are_read_and_others_are_refused_with_the_list(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(
        "order_id,user_id,item_id,ts,quantity,price\no,u,i0,2026-01-01,1,2\n"
    )
    words = ["Ja", "nein", "OUI", "non", "sí", "No", "Yes", "y", "N", "t", "F", "1", "0"]
    rows = [f"i{k},Tea,{word}" for k, word in enumerate(words)]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,available", *rows]))
    items = checked(tmp_path, "fail").tables["items"].to_pyarrow().sort_by("_row")
    assert items["available"].to_pylist() == [
        w.lower() in ("ja", "oui", "sí", "yes", "y", "t", "1") for w in words
    ]
    (tmp_path / "items.csv").write_text("item_id,title,available\ni0,Tea,ja\ni1,Tea,vielleicht")
    with pytest.raises(DataError, match=r"boolean: 1 \('vielleicht'\) \(rows 2\); true is true, .* ja, "):
        checked(tmp_path, "fail")
