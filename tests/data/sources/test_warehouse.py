"""Tables of databases and lakes are prepared as files with the same rows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import write_deltalake

from data.errors import DataError
from data.prepare import prepare, prepared_key
from data.shop_check import check_shop
from data.sources import warehouse
from data.tables.item_vectors import vector_column_names
from tests.data.conftest import CONFIGS, config
from tests.data.shop import make_shop
from tests.data.sources.postgres_server import PASSWORD, USER, find_programs, running_server

ITEMS = "SELECT sku AS item_id, title, category, brand, price FROM {}products WHERE sku IS NOT NULL"
Tables = dict[str, pa.Table]


@pytest.fixture(autouse=True)
def own_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's copies; every test is a command of its own."""
    monkeypatch.setattr(warehouse, "CACHE", tmp_path / "copies")
    next_command()
    return tmp_path / "copies"


def next_command() -> None:
    """Forget what this process copied, as a new one does."""
    warehouse._copy_tables.cache_clear()


@pytest.fixture(scope="module")
def shop_tables() -> Tables:
    """The tables of a shop as a database has them, with times that are times."""
    tables = {name: pa.Table.from_pylist(rows) for name, rows in make_shop(20, 32, 70).items()}
    orders = tables["orders"]
    ts = pc.strptime(orders["ts"], "%Y-%m-%dT%H:%M:%SZ", "us")
    tables["orders"] = orders.set_column(orders.column_names.index("ts"), "ts", ts)
    return tables


@pytest.fixture(scope="module")
def of_files(shop_tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared folder of the same rows in Parquet files."""
    folder = tmp_path_factory.mktemp("files")
    for name, table in shop_tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    return prepare(config(folder))


@pytest.fixture(scope="module")
def postgres(shop_tables: Tables) -> Iterator[str]:
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    with running_server(programs) as port:
        url = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        with psycopg.connect(url, autocommit=True) as con:
            con.execute("CREATE SCHEMA sales")
            load_postgres(con, "sales.orders", shop_tables["orders"])
            load_postgres(con, "products", shop_tables["items"].rename_columns({"item_id": "sku"}))
            load_postgres(con, "users", shop_tables["users"])
        yield url


def load_postgres(con: psycopg.Connection, name: str, table: pa.Table) -> None:
    types = {"string": "text", "timestamp[us]": "timestamp", "double": "numeric(10, 2)", "int64": "integer"}
    columns = ", ".join(f'"{field.name}" {types[str(field.type)]}' for field in table.schema)
    con.execute(f"CREATE TABLE {name} ({columns})")
    with con.cursor().copy(f"COPY {name} FROM STDIN") as copy:
        for row in table.to_pylist():
            copy.write_row(list(row.values()))


def make_duckdb(file: Path, tables: Tables) -> str:
    with duckdb.connect(str(file)) as con:
        con.execute("CREATE SCHEMA sales")
        for name, rows in (("sales.orders", tables["orders"]), ("users", tables["users"])):
            con.register("rows", rows)
            con.execute(f"CREATE TABLE {name} AS FROM rows")
        con.register("rows", tables["items"].rename_columns({"item_id": "sku"}))
        con.execute("CREATE TABLE products AS FROM rows")
    return f"duckdb://{file}"


def make_delta(folder: Path, tables: Tables) -> str:
    half = tables["orders"].num_rows // 2
    write_deltalake(folder / "sales" / "orders", tables["orders"].slice(half))
    write_deltalake(folder / "sales" / "orders", tables["orders"].slice(0, half), mode="append")
    write_deltalake(folder / "products", tables["items"].rename_columns({"item_id": "sku"}))
    write_deltalake(folder / "users", tables["users"])
    return f"delta://{folder}"


def settings(folder: Path, url: str, orders: str = "sales.orders", **data: Any) -> dict[str, Any]:
    """The config that prepares a database into `folder`."""
    groups = config(folder)
    groups["data"] = yaml.safe_load((CONFIGS / "data" / "warehouse.yaml").read_text())
    groups["data"] |= {"url": url, "tables": {"orders": orders, "items": ITEMS.format("")}} | data
    return groups


def content(prepared: Path) -> dict[str, Any]:
    """What a prepared folder holds: every table, and the counts."""
    tables = {str(file.relative_to(prepared)): pq.read_table(file) for file in prepared.rglob("*.parquet")}
    meta = json.loads((prepared / "meta.json").read_text())
    return tables | {name: meta[name] for name in ("counts", "split", "columns", "snapshot_dates", "window")}


@pytest.mark.parametrize("kind", ["postgres", "duckdb", "delta"])
def test_a_database_is_prepared_as_files_with_its_rows(
    kind: str, request: pytest.FixtureRequest, shop_tables: Tables, of_files: Path, tmp_path: Path
) -> None:
    orders = "sales.orders"
    if kind == "postgres":
        url = request.getfixturevalue("postgres")
    elif kind == "duckdb":
        url = make_duckdb(tmp_path / "shop.duckdb", shop_tables)
    else:
        url, orders = make_delta(tmp_path / "lake", shop_tables), "sales/orders"
    folder = prepare(settings(tmp_path, url, orders))
    out, expected = content(folder), content(of_files)
    assert out.keys() == expected.keys()
    for name, part in expected.items():
        assert out[name] == part, name
    made = (folder / "meta.json").stat().st_mtime_ns
    next_command()
    assert prepare(settings(tmp_path, url, orders)) == folder
    assert (folder / "meta.json").stat().st_mtime_ns == made, "reused"
    assert not files_with_password(tmp_path)


def files_with_password(folder: Path) -> list[Path]:
    secrets = [PASSWORD.encode(), quote(PASSWORD, safe="").encode()]
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(secret in file.read_bytes() for secret in secrets)]


@pytest.fixture
def database(shop_tables: Tables, tmp_path: Path) -> str:
    """The URL of a DuckDB file with the shop."""
    return make_duckdb(tmp_path / "shop.duckdb", shop_tables)


def change(url: str, *statements: str) -> None:
    """What happens in the shop's DuckDB file before the next command."""
    with duckdb.connect(url.removeprefix("duckdb://")) as con:
        for statement in statements:
            con.execute(statement)
    next_command()


def test_rows_in_another_order_are_the_same_data(database: str, tmp_path: Path) -> None:
    groups = settings(tmp_path, database)
    key = prepared_key(groups)
    shuffled = "CREATE OR REPLACE TABLE sales.orders AS FROM sales.orders ORDER BY hash(order_id, item_id)"
    change(database, shuffled)
    assert prepared_key(groups) == key
    change(database, "UPDATE sales.orders SET quantity = quantity + 1 WHERE order_id = 'o00007'")
    later = prepared_key(groups)
    assert later != key
    change(database, "DELETE FROM sales.orders")
    assert prepared_key(settings(tmp_path, database, refresh=False)) == later, "rows of the last command"
    Path(database.removeprefix("duckdb://")).unlink()
    assert prepared_key(settings(tmp_path, database, refresh=False)) == later, "without the database"


def test_a_command_reads_the_database_once(database: str, tmp_path: Path) -> None:
    groups = settings(tmp_path, database)
    files = warehouse.table_files(groups["data"])
    with duckdb.connect(database.removeprefix("duckdb://")) as con:
        con.execute("DELETE FROM sales.orders")
    assert warehouse.table_files(groups["data"]) == files
    assert pq.read_metadata(files["orders"].path).num_rows > 0


def test_old_copies_are_removed(database: str, own_copies: Path, tmp_path: Path) -> None:
    for quantity in (1, 2, 3, 4):
        change(database, f"UPDATE sales.orders SET quantity = {quantity}")
        files = warehouse.table_files(settings(tmp_path, database)["data"])
    kept = list(own_copies.rglob("orders-*.parquet"))
    assert len(kept) == 2, "another process may still read the one before"
    assert files["orders"].path in kept
    assert not list(own_copies.rglob(".copy-*"))


def test_columns_types_and_bad_rows_are_those_of_files(database: str, tmp_path: Path) -> None:
    change(
        database,
        'ALTER TABLE sales.orders RENAME order_id TO "Invoice No"',
        "UPDATE sales.orders SET price = -1 WHERE item_id = 'i003' AND quantity = 2",
        "ALTER TABLE sales.orders ALTER user_id TYPE DOUBLE USING substr(user_id, 2)::DOUBLE",
        "DROP TABLE users",
    )
    columns = {"orders": {"order_id": "Invoice No"}}
    with pytest.raises(DataError, match=r"sales\.orders: column 'user_id' is float64.*type: integer"):
        prepare(settings(tmp_path, database, columns=columns))
    columns["orders"] |= {"user_id": {"column": "user_id", "type": "integer"}}  # type: ignore[dict-item]
    with pytest.raises(DataError, match=r"sales\.orders: 3 bad rows"):
        prepare(settings(tmp_path, database, columns=columns))
    facts = check_shop(settings(tmp_path, database, columns=columns, bad_rows="quarantine")).facts
    assert {"fact": "rejected", "value": 3} in facts


def test_one_list_of_order_lines_is_orders_and_items(database: str, tmp_path: Path) -> None:
    lines = "SELECT o.*, title FROM sales.orders o JOIN products ON sku = item_id"
    groups = settings(tmp_path, database, tables={"orders": lines, "items": lines})
    groups["data"]["columns"] = {"items": {"item_id": "item_id", "title": "title"}}
    files = warehouse.table_files(groups["data"])
    assert files["orders"].path == files["items"].path
    assert {"fact": "items in the list", "value": 32} in check_shop(groups).facts


def test_types_of_postgres(postgres: str, tmp_path: Path) -> None:
    items = (
        "SELECT md5(sku)::uuid AS item_id, title, now() AS created_at, price::numeric AS price, "
        "'{\"a\": 1}'::jsonb AS extra, interval '1 day' AS shelf, array[1, 2]::real[] AS vector "
        "FROM products -- the public schema's"
    )
    orders = "SELECT *, md5(item_id)::uuid AS sku FROM sales.orders"
    groups = settings(tmp_path, postgres, tables={"orders": orders, "items": items})
    files = warehouse.table_files(groups["data"])
    types = {field.name: str(field.type) for field in pq.read_schema(files["items"].path)}
    assert types == {
        "item_id": "string", "title": "string", "created_at": "timestamp[us, tz=UTC]", "price": "double",
        "extra": "string", "shelf": "string", "vector": "list<element: float>",
    }  # fmt: skip
    assert vector_column_names(files["items"]) == ["vector"]


def test_a_read_only_account_is_enough(postgres: str, tmp_path: Path) -> None:
    with psycopg.connect(postgres, autocommit=True) as con:
        con.execute(
            "CREATE ROLE reader LOGIN PASSWORD 'secret'; GRANT pg_read_all_data TO reader;"
            "ALTER ROLE reader SET default_transaction_read_only = on"
        )
    host = postgres.rpartition("@")[2]
    url = f"postgresql://reader:secret@{host}"
    tables = warehouse.table_files(settings(tmp_path, url)["data"])
    assert list(tables) == ["orders", "items", "users"]
    in_schema = settings(tmp_path, f"{url}/sales", tables={"items": ITEMS.format("public.")})["data"]
    assert list(warehouse.table_files(in_schema)) == ["orders", "items"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"url": None}, r"data\.url is not set: give the database"),
        ({"url": "shop.duckdb"}, r"data\.url=shop\.duckdb: expected a URL, such as postgresql://"),
        ({"url": "duckdb:///no/shop.duckdb"}, r"there is no file /no/shop\.duckdb; correct data\.url"),
        ({"url": "delta:///no/lake"}, r"there is no folder /no/lake; correct data\.url"),
        ({"url": "postgresql://u:secret@127.0.0.1:1/shop"}, r"u:\*\*\*@.*refused.*Check data\.url"),
        ({"url": "postgresql://u:***@127.0.0.1:1/shop"}, r"\*\*\* stands for the password in a saved config"),
        ({"url": "foo://u:secret@host/shop"}, r"foo://u:\*\*\*@host/shop: no connection"),
        ({"url": "mysql://u:secret@host/shop"}, r"not installed: pip install -c .*'ibis-framework\[mysql\]'"),
        ({"tables": {"orders": "sales.order"}}, r"no table sales\.order; set data\..*sales\.orders"),
        ({"tables": {"orders": "sales.orders"}}, r"no table items; set data\.tables\.items.*products"),
        ({"tables": {"orders": "SELECT nothing FROM products"}}, r"nothing FROM.*: cannot be read: "),
        ({"tables": {"orders": "SELECT * FROM product"}}, r"there is no table product\..* Found: products"),
        ({"tables": {"orders": "SELECT 1 AS a, 2 AS A"}}, r"two columns are named a: .* with AS"),
        ({"tables": {"orders": "DROP TABLE users"}}, r"DROP TABLE users: cannot be read: .*read-only"),
        ({"tables": {"basket": "orders"}}, r"data\.tables\.basket: no such table"),
        ({"columns": {"basket": {}}}, r"data\.columns\.basket: no such table"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(data: dict[str, Any], message: str, database: str, tmp_path: Path) -> None:
    groups = settings(tmp_path, database)
    groups["data"] |= data
    with pytest.raises(DataError, match=message) as error:
        prepare(groups)
    for line in str(error.value).splitlines():
        assert line.startswith(("data.", str(groups["data"]["url"]).partition("://")[0])), "a line each"
    assert "secret" not in str(error.value)


def test_a_wrong_password_is_in_no_message(postgres: str, tmp_path: Path) -> None:
    url = postgres.replace(":" + quote(PASSWORD, safe=""), ":wrong-word")
    with pytest.raises(DataError, match="password authentication failed") as error:
        prepare(settings(tmp_path, url))
    assert "wrong-word" not in str(error.value)


def test_a_lake_in_a_bucket(bucket: Callable[[str], str], shop_tables: Tables, tmp_path: Path) -> None:
    endpoint = bucket("").partition("endpoint_override=")[2].partition("&")[0]
    options = {"AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    items = shop_tables["items"].rename_columns({"item_id": "sku"})
    for name, rows in (("orders", shop_tables["orders"]), ("products", items)):
        write_deltalake(f"s3://shop/lake/{name}", rows, storage_options=options)
    url = f"delta+s3://shop/lake?{urlencode(options)}"
    files = warehouse.table_files(settings(tmp_path, url, orders="orders")["data"])
    assert list(files) == ["orders", "items"]
    assert pq.read_metadata(files["items"].path).num_rows == 32


def test_what_deltalake_cannot_read_is_refused(shop_tables: Tables, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    url = make_delta(lake, shop_tables)
    log = lake / "products" / "_delta_log"
    features = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"]}  # fmt: skip
    (log / f"{1:020d}.json").write_text(json.dumps({"protocol": features}))
    with pytest.raises(DataError, match=r"deletionVectors.*Write the table without these features"):
        prepare(settings(tmp_path, url, "sales/orders"))
