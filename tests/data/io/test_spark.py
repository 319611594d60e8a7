"""Spark and DuckDB prepare equal tables. Needs requirements/spark.txt and Java 17."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.io import engine
from data.prepare import prepare
from data.sources import tables
from data.tables.contract import conform
from data.tables.item_vectors import read_vector_columns
from serving.table_files import open_table
from tests.data.conftest import config, save
from tests.data.shop import make_shop

pytest.importorskip("pyspark", reason="PySpark is not installed: pip install -r requirements/spark.txt")


@pytest.mark.slow
def test_the_same_rows_as_duckdb(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    rows = make_shop(users=20, items=32, days=70, events=True)
    for k, item in enumerate(rows["items"]):
        item |= {"color": f"c{k % 3}", "weight": k / 8, "embedding": f"[{k % 5}, {k % 3}, 1]"}
    for line in rows["orders"][::7]:
        rows["orders"].append({**line, "order_id": f"back {line['order_id']}", "quantity": -1})
    guest = rows["orders"][20]["order_id"]
    for line in rows["orders"]:
        line["user_id"] = None if line["order_id"] == guest else line["user_id"]
    rows["orders"] += [dict(rows["orders"][40]), {**rows["orders"][50], "quantity": 10**9}]
    for event in rows["events"][::4]:
        event["kind"] = "wishlist"
    save(shop, rows)
    csv = config(shop)
    labels = ({"label": "wishlist"}, {"label": "return"}, {"label": "spend", "window": "3d"})
    csv["tasks"] = dict(zip("abc", labels, strict=True))
    with pytest.raises(DataError, match="Spark reads Parquet only"):
        prepare(csv | {"prepare": {"engine": "spark", "master": "local[2]"}})
    for file in shop.glob("*.csv"):
        as_parquet(file)
    folders = []
    for name in ("duckdb", "spark"):
        cfg = csv | {"prepare": {"engine": name, "master": "local[2]"}}
        folders.append(prepare(cfg | {"paths": {"prepared": str(tmp_path / name)}}))
    assert folders[0].name == folders[1].name, "the key does not depend on the engine"
    files = sorted(file.relative_to(folders[0]) for file in folders[0].rglob("*.parquet"))
    assert files == sorted(file.relative_to(folders[1]) for file in folders[1].rglob("*.parquet"))
    for file in files:
        assert pq.read_table(folders[0] / file).equals(pq.read_table(folders[1] / file)), file
    assert (folders[0] / "schema.json").read_text() == (folders[1] / "schema.json").read_text()


def as_parquet(file: Path) -> None:
    """Replace a CSV file by a Parquet file with the canonical types."""
    with engine.connect({}, file.parent / "scratch") as con:
        raw = tables.read_tables(con, {"root": str(file.parent)})[file.stem]
        table = conform(raw, file.stem, open_table(file))
        columns = [c for c in table.columns if not c.startswith("_")]
        canonical = con.to_pyarrow(table.order_by("_row").select(*columns))
        if file.stem == "items":
            canonical = canonical.append_column(
                "embedding", read_vector_columns(open_table(file), ["embedding"])["embedding"]
            )
        pq.write_table(canonical, file.with_suffix(".parquet"))
    file.unlink()
