"""Headers alone find the wrong names that reading the files would find, and no others."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.inputs import read_headers
from data.shop_check import check_shop
from data.tables.contract import TABLES
from tests.data.conftest import config, save
from training.errors import ConfigError
from training.report_columns import check_header_columns, check_table_columns

Shop = tuple[Path, dict[str, Any]]


def test_headers_have_the_columns_of_the_contract_and_further_ones(shop: Shop) -> None:
    folder, tables = shop
    tables["orders"] = [
        {"Invoice": r["order_id"], **{k: v for k, v in r.items() if k != "order_id"}}
        for r in tables["orders"]
    ]
    save(folder, tables)
    columns = {"orders": {"order_id": "Invoice"}}
    headers = read_headers(config(folder, columns=columns))
    assert headers is not None
    assert set(headers["orders"]) == {
        "order_id", "user_id", "item_id", "ts", "quantity", "price", "device",
    }  # fmt: skip
    assert headers["users"] == ["user_id", "city", "age"]
    assert read_headers({"data": {"name": "completejourney"}}) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"columns": {"orders": {"order_id": "order_ids"}, "items": {"title": "name"}}},
            "Did you mean 'order_id' for 'order_ids'",
        ),
        ({"columns": {"orders": {"price": "device", "quantity": "price"}}}, None),
        ({"csv": {"delimiter": ";", "decimal": ",", "time_format": None}}, "separated by ','"),
    ],
)
def test_errors_are_those_of_reading(shop: Shop, data: dict[str, Any], message: str | None) -> None:
    folder, _ = shop
    if message is None:
        assert read_headers(config(folder, **data)) is not None
        return
    with pytest.raises(DataError, match=message) as from_headers:
        read_headers(config(folder, **data))
    with pytest.raises(DataError) as from_rows:
        check_shop(config(folder, **data))
    assert str(from_headers.value) == str(from_rows.value)


def test_a_missing_column_is_named_with_what_it_may_be(shop: Shop) -> None:
    folder, tables = shop
    save(folder, {"items": [{"sku": r["item_id"], "title": r["title"]} for r in tables["items"]]})
    with pytest.raises(DataError, match=r"lacks 'item_id'.*'data.columns.items={item_id: sku}'") as error:
        read_headers(config(folder))
    with pytest.raises(DataError) as from_rows:
        check_shop(config(folder))
    assert str(error.value) == str(from_rows.value)


def test_columns_of_all_files_count_and_a_cut_off_file_is_named(shop: Shop) -> None:
    folder, tables = shop
    (folder / "items.csv").unlink()
    rows = tables["items"]
    (folder / "items").mkdir()
    for part, names in (("a", ["item_id"]), ("b", ["item_id", "title"])):
        table = pa.Table.from_pylist([{n: r[n] for n in names} for r in rows])
        pq.write_table(table, folder / "items" / f"{part}.parquet")
    text = (folder / "orders.csv").read_text()
    head, _, body = text.partition("\n")
    quoted = ", ".join(f'"{name}"' if k % 2 else f"{name} " for k, name in enumerate(head.split(",")))
    (folder / "orders.csv").write_text(f"\ufeff{quoted}\n{body}")
    headers = read_headers(config(folder))
    assert headers is not None
    assert headers["items"] == ["item_id", "title"]
    assert headers["orders"] == head.split(",")
    (folder / "orders.csv").unlink()
    (folder / "orders.csv.gz").write_bytes(gzip.compress(text.encode())[:10])
    with pytest.raises(DataError, match=r"orders\.csv\.gz: cannot be read"):
        read_headers(config(folder))


def test_a_shared_file_gives_each_column_to_one_table_by_headers_and_by_rows(shop: Shop) -> None:
    folder, tables = shop
    titles = {row["item_id"]: row["title"] for row in tables["items"]}
    (folder / "items.csv").unlink()
    save(folder, {"orders": [row | {"Description": titles[row["item_id"]]} for row in tables["orders"]]})
    data = {"files": {"items": "orders.csv"}, "columns": {"items": {"title": "Description"}}}
    headers = read_headers(config(folder, **data))
    assert headers is not None
    columns = check_shop(config(folder, **data)).columns
    of_headers = {name: [c for c in headers[name] if c not in TABLES[name]] for name in headers}
    assert of_headers == columns == {"orders": ["device"], "items": [], "users": ["city", "age"]}
    with pytest.raises(ConfigError, match=r"orders\.Description: no such column"):
        check_header_columns(["orders.Description"], headers)
    with pytest.raises(ConfigError, match=r"the column is not read \(text\)"):
        check_table_columns(["orders.note"], columns, {"orders": {"note": "text"}})
