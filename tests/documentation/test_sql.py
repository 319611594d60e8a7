"""The SQL of docs/how_to/sql makes tables that preparation reads."""

import duckdb
import pyarrow.parquet as pq
import pytest

from data.tables.contract import TABLES
from tests.end_to_end.commands import ROOT
from training.config import compose_config

SHOP = """
CREATE TABLE customers AS SELECT 'c' || n AS id, 'Graz' AS city, 1980 + n % 9 AS birth_year
    FROM range(30) r(n);
CREATE TABLE products AS SELECT 'p' || n AS sku, 'Product ' || n AS name, 'food' AS department,
    's' || n % 4 AS section, 'b' || n % 3 AS brand, 2.0 + n AS list_price, 1.0 AS cost,
    TIMESTAMP '2025-01-01' AS listed_at, true AS active FROM range(20) r(n);
CREATE TABLE sales AS SELECT 's' || n AS id,
    CASE WHEN n % 11 = 0 THEN NULL ELSE 'c' || n % 30 END AS customer_id,
    TIMESTAMP '2026-01-01' + INTERVAL 6 HOUR * n AS paid_at, 'web' AS channel FROM range(400) r(n);
CREATE TABLE sale_lines AS SELECT 's' || n AS sale_id, 'p' || (n * 7 + k * 3) % 20 AS sku, 1 + k AS units,
    2.0 AS unit_price, CASE WHEN n % 50 = 0 AND k = 0 THEN TIMESTAMP '2026-05-01' END AS returned_at
    FROM range(400) r(n), range(3) l(k);
CREATE TABLE clicks AS SELECT 'c' || n % 30 AS customer_id, 'p' || n % 20 AS sku,
    TIMESTAMP '2026-01-02' + INTERVAL 6 HOUR * n AS clicked_at, 's' || n AS sale_id FROM range(300) r(n);
"""


@pytest.fixture
def shop_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    with duckdb.connect() as database:
        database.execute(SHOP)
        database.execute((ROOT / "docs" / "how_to" / "sql" / "canonical_tables.sql").read_text())
    return tmp_path / "shop"


def test_the_sql_writes_the_columns_of_the_contract(shop_folder):
    for name, columns in TABLES.items():
        written = pq.read_schema(shop_folder / f"{name}.parquet").names
        assert {column for column, spec in columns.items() if spec.required} <= set(written)
    orders = pq.read_table(shop_folder / "orders.parquet")
    assert sum(quantity < 0 for quantity in orders["quantity"].to_pylist()) == 8
    assert orders["user_id"].null_count > 0


def test_the_check_of_a_shop_accepts_the_tables(shop_folder):
    from data.shop_check import check_shop

    report = check_shop(compose_config("train", ["data=tables", f"data.root={shop_folder}"]))
    assert report is not None
