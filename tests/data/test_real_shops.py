"""What files of real shops have: formats, spellings, guests, repeated rows, orders of absurd size."""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from data.shop_check import check_shop
from tests.data.conftest import config, save
from tests.data.shop import make_shop

Tables = dict[str, list[dict[str, Any]]]
SPLITS = ("train", "validation", "test")


def prepared(folder: Path, **data: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """meta.json, and the examples of all splits without what the order of files decides."""
    out = prepare(config(folder, **data))
    meta = json.loads((out / "meta.json").read_text())
    examples = pa.concat_tables([pq.read_table(out / "examples" / f"{split}.parquet") for split in SPLITS])
    return meta, examples.to_pylist()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The examples of the unchanged shop."""
    folder = tmp_path_factory.mktemp("unchanged")
    save(folder, make_shop(users=20, items=32, days=70))  # as the fixture `shop`
    return prepared(folder)[1]


def facts(folder: Path, **data: Any) -> dict[str, int]:
    """What the report of the shop's tables counts."""
    return {row["fact"]: row["value"] for row in check_shop(config(folder, **data)).facts}


def as_parquet(folder: Path, name: str) -> pa.Table:
    """The table of a CSV file, which is removed."""
    file = folder / f"{name}.csv"
    types = {"order_id": pa.string(), "user_id": pa.string(), "item_id": pa.string()}
    table = pa_csv.read_csv(file, convert_options=pa_csv.ConvertOptions(column_types=types))
    file.unlink()
    return table


def gzipped(folder: Path) -> dict[str, Any]:
    for name in ("orders", "items", "users"):
        file = folder / f"{name}.csv"
        with file.open("rb") as source, gzip.open(f"{file}.gz", "wb") as target:
            shutil.copyfileobj(source, target)
        file.unlink()
    return {}


def partitioned(folder: Path) -> dict[str, Any]:
    """Folders of partitions, in the order of time; an id of the contract is a key too."""
    orders = as_parquet(folder, "orders")
    for number, start in enumerate(range(0, orders.num_rows, 100)):
        part = folder / "orders" / f"batch={number:03d}"
        part.mkdir(parents=True)
        pq.write_table(orders.slice(start, 100), part / "part-0.parquet")
        (part / "_SUCCESS").touch()
    for row in as_parquet(folder, "users").to_pylist():
        part = folder / "users.parquet" / f"user_id={row['user_id']}"
        part.mkdir(parents=True)
        rest = {name: [value] for name, value in row.items() if name != "user_id"}
        pq.write_table(pa.table(rest), part / "part-0.parquet")
    return {}


def folders_of_csv(folder: Path) -> dict[str, Any]:
    lines = (folder / "orders.csv").read_text().splitlines()
    (folder / "orders" / "2024").mkdir(parents=True)
    half = len(lines) // 2
    for name, rows in {"a": lines[1:half], "2024/b": lines[half:]}.items():
        (folder / "orders" / f"{name}.csv").write_text("\n".join([lines[0], *rows]))
    (folder / "orders.csv").unlink()
    return {}


def semicolons(folder: Path) -> dict[str, Any]:
    for name in ("orders", "items", "users"):
        file = folder / f"{name}.csv"
        rows = list(csv.reader(file.open(newline="")))
        price = rows[0].index("price") if "price" in rows[0] else None
        with file.open("w", newline="") as target:
            writer = csv.writer(target, delimiter=";")
            for row in rows:
                cells = [cell.replace(".", ",") if k == price else cell for k, cell in enumerate(row)]
                writer.writerow(cells)
    return {"csv": {"delimiter": ";", "decimal": ","}}


def other_names(folder: Path) -> dict[str, Any]:
    (folder / "orders.csv").rename(folder / "lines.csv")
    for file, new in ((folder / "lines.csv", "Invoice"), (folder / "items.csv", "SKU")):
        old = {"Invoice": "order_id", "SKU": "item_id"}[new]
        header, *rows = file.read_text().splitlines()
        file.write_text("\n".join([header.replace(old, new), *rows]))
    columns = {"orders": {"order_id": "Invoice"}, "items": {"item_id": {"column": "SKU"}}}
    return {"files": {"orders": "lines.csv"}, "columns": columns}


FORMATS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "gzipped": gzipped,
    "partitioned": partitioned,
    "folders of csv": folders_of_csv,
    "semicolons": semicolons,
    "other names": other_names,
}


@pytest.mark.parametrize("form", FORMATS)
def test_however_the_tables_are_kept_the_examples_are_the_same(
    shop: tuple[Path, dict[str, Any]], form: str, expected: list[dict[str, Any]]
) -> None:
    folder, _ = shop
    settings = FORMATS[form](folder)
    meta, examples = prepared(folder, **settings)
    assert len(examples) == len(expected) > 0
    by_order = {row["order_id"]: row for row in examples}
    for row in expected:
        assert by_order[row["order_id"]]["basket_item"] == row["basket_item"]
        assert by_order[row["order_id"]]["outcome_item"] == row["outcome_item"]
        assert by_order[row["order_id"]]["profile"] == row["profile"]
    if form == "partitioned":
        assert meta["columns"]["unread"]["orders"] == {"batch": "how its files are kept"}


def test_wrong_separators_are_named_with_the_setting(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = shop
    semicolons(folder)
    with pytest.raises(DataError, match="separated by ';'") as error:
        prepare(config(folder))
    assert str(error.value).count("data.csv.delimiter=';'") == 3, "all tables are named at once"
    with pytest.raises(DataError, match="column 'price' is text such as"):
        prepare(config(folder, csv={"delimiter": ";"}))


def test_missing_columns_of_all_tables_are_named_with_their_likely_names(
    shop: tuple[Path, dict[str, Any]],
) -> None:
    folder, tables = shop
    names = {"order_id": "InvoiceNo", "item_id": "StockCode", "ts": "InvoiceDate", "user_id": "Customer ID"}
    tables["orders"] = [{names.get(c, c): value for c, value in row.items()} for row in tables["orders"]]
    tables["items"] = [{"sku" if c == "item_id" else c: v for c, v in row.items()} for row in tables["items"]]
    save(folder, tables)
    with pytest.raises(DataError) as error:
        prepare(config(folder))
    text = str(error.value)
    mapping = "{order_id: InvoiceNo, user_id: Customer ID, item_id: StockCode, ts: InvoiceDate}"
    assert f"'data.columns.orders={mapping}'" in text
    assert "'data.columns.items={item_id: sku}'" in text
    columns = {"orders": names, "items": {"item_id": "sku"}}
    assert prepared(folder, columns=columns)[1]
    with pytest.raises(DataError, match=r"data.columns.orders.ts is 'Datum': no such column"):
        prepare(config(folder, columns=columns | {"orders": names | {"ts": "Datum"}}))
    with pytest.raises(DataError, match=r"data.columns.baskets: no such table"):
        prepare(config(folder, columns={"baskets": {}}))
    with pytest.raises(DataError, match=r"orders has no column oder_id. Did you mean order_id"):
        prepare(config(folder, columns={"orders": {"oder_id": "InvoiceNo"}}))


def test_one_list_of_order_lines_is_orders_and_items(shop: tuple[Path, dict[str, Any]]) -> None:
    """As the public file of a British online shop: guests, whole numbers as decimals, returns, repeats."""
    folder, tables = shop
    titles = {row["item_id"]: row["title"] for row in tables["items"]}
    lines = []
    for row in tables["orders"]:
        user = f"{int(row['user_id'][1:]) + 12_000}.0"
        lines.append(
            {"Invoice": row["order_id"], "StockCode": row["item_id"], "Description": titles[row["item_id"]],
             "Quantity": row["quantity"], "UnitPrice": row["price"], "Customer ID": user,
             "InvoiceDate": row["ts"].replace("T", " ")[:16], "Country": "UK"}
        )  # fmt: skip
    guest_orders = sorted({row["Invoice"] for row in lines})[::5]
    lines = [row | {"Customer ID": ""} if row["Invoice"] in guest_orders else row for row in lines]
    lines += [lines[3], lines[7], lines[9] | {"Quantity": -1}]
    for file in folder.glob("*.csv"):
        file.unlink()
    save(folder, {"retail": lines})
    user = {"column": "Customer ID", "type": "integer"}
    orders = {"order_id": "Invoice", "item_id": "StockCode", "ts": "InvoiceDate", "quantity": "Quantity",
              "price": "UnitPrice", "user_id": user}  # fmt: skip
    settings: dict[str, Any] = {
        "files": {"orders": "retail.csv", "items": "retail.csv"},
        "columns": {"orders": orders, "items": {"item_id": "StockCode", "title": "Description"}},
        "csv": {"time_format": "%Y-%m-%d %H:%M"},
    }
    meta, examples = prepared(folder, **settings)
    counts = meta["counts"]
    assert (counts["guest_orders"], counts["repeated"], counts["returns"]) == (len(guest_orders), 2, 1)
    assert counts["items"] == len({row["StockCode"] for row in lines})
    assert counts["users"] == 20
    assert {row["user_id"] for row in examples} <= {str(12_000 + k) for k in range(20)}
    assert not {row["order_id"] for row in examples} & set(guest_orders)
    assert meta["columns"]["orders"] == ["Country (1 value)"]
    assert not meta["columns"]["items"]
    orders["user_id"] = "Customer ID"
    with pytest.raises(DataError, match=r"'user_id' has 20 ids such as '12000.0'.*type: integer"):
        prepare(config(folder, **settings))


def test_guests_count_for_items_and_are_nobody(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    orders = sorted({row["order_id"] for row in tables["orders"]})
    guests = set(orders[::3])
    written = iter(["", "nan", "None", "NULL"] * len(tables["orders"]))
    tables["orders"] = [
        row | {"user_id": next(written)} if row["order_id"] in guests else row for row in tables["orders"]
    ]
    save(folder, tables)
    out = prepare(config(folder))
    meta = json.loads((out / "meta.json").read_text())
    assert meta["counts"]["orders"] == len(orders)
    assert meta["counts"]["guest_orders"] == len(guests)
    assert meta["counts"]["users"] <= 20
    histories = pq.read_table(out / "user_histories.parquet")["user_id"].to_pylist()
    assert not {"", "nan", "None", "NULL", None} & set(histories)
    snapshots = pq.read_table(out / "snapshots.parquet")
    last = snapshots.filter(pa.compute.equal(snapshots["snapshot"], max(snapshots["snapshot"].to_pylist())))
    assert sum(last["orders_28d"].to_pylist()) > 0
    lines = {(row["order_id"], row["item_id"]) for row in tables["orders"]}
    assert meta["counts"]["lines"] == len(lines)


def test_absurd_sizes_are_winsorised_and_counted(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    huge = tables["orders"][::50]
    for row in huge:
        row["quantity"] = 10**9
    tables["orders"][5]["price"] = 1e12
    save(folder, tables)
    meta, examples = prepared(folder)
    assert meta["counts"]["winsorized"] == len(huge) + 1
    assert max(value for row in examples for value in row["outcome_value"]) < 1e5
    assert max(value for row in examples for value in row["basket_quantity"]) < 1e3


@pytest.mark.parametrize("name", ["orders", "items", "users", "events"])
def test_a_repeated_row_counts_once(shop: tuple[Path, dict[str, Any]], name: str) -> None:
    folder, tables = shop
    click = {**{c: tables["orders"][0][c] for c in ("user_id", "item_id", "ts", "order_id")}, "kind": "click"}
    tables["events"] = [click]
    tables[name] += [dict(tables[name][0])] * 2
    save(folder, tables)
    assert facts(folder)[f"repeated rows, counted once ({name})"] == 2


@pytest.mark.parametrize("column", ["brand", "margin", "created_at", "available"])
def test_an_empty_column_is_as_absent(shop: tuple[Path, dict[str, Any]], column: str) -> None:
    folder, _ = shop
    expected = facts(folder)
    items = as_parquet(folder, "items")
    if column in items.column_names:
        items = items.drop([column])
    nothing = pa.array(np.full(len(items), np.nan))
    pq.write_table(items.append_column(column, nothing), folder / "items.parquet")
    assert facts(folder) == expected


@pytest.mark.parametrize("zone", [" -0500", "-0500", " -05:00", "-05:00"])
def test_times_with_an_offset(shop: tuple[Path, dict[str, Any]], zone: str) -> None:
    folder, tables = shop
    expected = facts(folder)
    for row in tables["orders"]:
        row["ts"] = row["ts"].replace("T", " ")[:19] + zone
    save(folder, tables)
    moved = {name: expected[name] + 5 * 3600 for name in ("first order", "last order")}
    assert facts(folder) == expected | moved


def test_one_spelling_of_categories(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    for k, row in enumerate(tables["items"]):
        if k % 2:
            separator = " > " if row["item_id"] < "i016" else " / "
            row["category"] = "/ " + row["category"].replace("/", separator) + " /"
    save(folder, tables)
    out = prepare(config(folder))
    categories = set(pq.read_table(out / "items.parquet")["category"].to_pylist()) - {None}
    assert all(part.strip() == part != "" for path in categories for part in path.split("/"))


@pytest.mark.parametrize(("horizon", "advice"), [("14d", "None of the"), ("1d", "data.horizon=")])
def test_too_few_outcomes_stop_with_a_fitting_horizon(
    shop: tuple[Path, dict[str, Any]], horizon: str, advice: str
) -> None:
    folder, tables = shop
    for row in tables["orders"]:
        if horizon == "14d":
            row["user_id"] = row["order_id"]  # nobody returns
    if horizon == "14d":
        del tables["users"]
        (folder / "users.csv").unlink()
    if horizon == "1d":
        tables["orders"] = [row for row in tables["orders"] if int(row["user_id"][1:]) < 4]
    save(folder, tables)
    with pytest.raises(DataError, match="too few checkouts are followed by a purchase") as error:
        prepare(config(folder, horizon=horizon))
    assert advice in str(error.value)
    assert "at least 10" in str(error.value)


def unnamed_index(folder: Path, tables: Tables) -> None:
    for name, rows in tables.items():
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["", *rows[0]])
        writer.writerows([number, *row.values()] for number, row in enumerate(rows))
        (folder / f"{name}.csv").write_text(text.getvalue())


def tabs(folder: Path, tables: Tables) -> None:
    for name, rows in tables.items():
        lines = ["\t".join(map(str, values)) for values in (rows[0], *(row.values() for row in rows))]
        (folder / f"{name}.csv").unlink()
        (folder / f"{name.title()}.TSV").write_text("\n".join(lines))


def other_times(folder: Path, tables: Tables) -> None:
    for row in tables["orders"]:
        row["ts"] = f"{datetime.fromisoformat(row['ts']):%d.%m.%Y %H:%M}"
    save(folder, tables)


def seconds_with_gaps(folder: Path, tables: Tables) -> None:
    orders = as_parquet(folder, "orders")
    seconds = pa.array([ts.timestamp() for ts in orders["ts"].to_pylist()], pa.float64())
    at = orders.column_names.index("ts")
    pq.write_table(orders.set_column(at, "ts", seconds), folder / "orders.parquet")


def other_encoding(folder: Path, tables: Tables) -> None:
    tables["items"][0]["title"] = "Käse"
    save(folder, tables)
    file = folder / "items.csv"
    file.write_bytes(file.read_text().encode("latin-1"))


def late_encoding(folder: Path, tables: Tables) -> None:
    row = tables["items"][0]
    tables["items"] += [{**row, "item_id": f"n{k}", "title": "Cheese"} for k in range(2000)]
    tables["items"][-1]["title"] = "Käse"
    save(folder, tables)
    file = folder / "items.csv"
    file.write_bytes(file.read_text().encode("latin-1"))


@pytest.mark.parametrize(
    ("write", "settings", "told"),
    [
        (unnamed_index, {}, {"orders": "column0 (no name in the header)"}),
        (tabs, {"csv": {"delimiter": "\\t"}}, {}),
        (other_times, {"csv": {"time_format": "%d.%m.%Y %H:%M"}}, {}),
        (seconds_with_gaps, {}, {}),
        (tabs, {}, r"separated by '\\t', expected ','; set \"data.csv.delimiter='\\t'\""),
        (other_times, {}, "give its format: data.csv.time_format="),
        (
            other_encoding,
            {},
            r"items\.csv: cannot be read: it is not UTF-8.* iconv -f cp1252 -t utf-8 '.*' > NEW",
        ),
        (late_encoding, {}, r"items\.csv: cannot be read: it is not UTF-8.* iconv -f cp1252"),
    ],
)
def test_other_ways_to_write_a_table(
    shop: tuple[Path, dict[str, Any]],
    write: Callable[[Path, Tables], None],
    settings: dict[str, Any],
    told: str | dict[str, str],
) -> None:
    """Read, with what is not read named, or refused with the setting that reads it."""
    folder, tables = shop
    n_lines = len(tables["orders"])
    write(folder, tables)
    if isinstance(told, str):
        with pytest.raises(DataError, match=told):
            check_shop(config(folder, **settings))
        return
    report = {row["table"]: row for row in check_shop(config(folder, **settings)).tables}
    assert report["orders"]["rows"] == n_lines
    assert report["orders"]["unread"] == told.get("orders", "")
