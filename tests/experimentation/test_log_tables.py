"""Orders of a shop as the analyses read them: the files that preparation reads."""

import gzip
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from experimentation.log_tables import create_shop_table, set_utc

HEADER = "order_id,user_id,item_id,ts,quantity,price\n"
LINES = [f"o{k},u{k},007,2026-02-20 1{k}:00:00 -0500,1,2.5\n" for k in range(4)]


def read(path: Path) -> list[tuple]:
    with duckdb.connect() as con:
        set_utc(con)
        create_shop_table(con, "orders", path)
        return con.execute("SELECT user_id, item_id, ts, price FROM orders ORDER BY ts").fetchall()


def as_csv(folder: Path) -> Path:
    (folder / "orders.csv").write_text(HEADER + "".join(LINES))
    return folder / "orders.csv"


def as_gzip(folder: Path) -> Path:
    with gzip.open(folder / "orders.csv.gz", "wt") as file:
        file.write(HEADER + "".join(LINES))
    return folder / "orders.csv.gz"


def as_folder(folder: Path) -> Path:
    for k in range(2):
        part = folder / "orders" / f"month={k}"
        part.mkdir(parents=True)
        (part / "part.csv").write_text(HEADER + "".join(LINES[2 * k : 2 * k + 2]))
    return folder / "orders"


def as_parquet(folder: Path) -> Path:
    types = {"item_id": pa.string(), "ts": pa.string()}
    table = csv.read_csv(as_csv(folder), convert_options=csv.ConvertOptions(column_types=types))
    pq.write_table(table, folder / "orders.parquet")
    return folder / "orders.parquet"


@pytest.mark.parametrize("form", [as_csv, as_gzip, as_folder, as_parquet])
def test_the_same_orders_in_every_form(tmp_path: Path, form) -> None:  # type: ignore[no-untyped-def]
    noon = 1_771_599_600  # 2026-02-20 10:00 -0500
    assert read(form(tmp_path)) == [(f"u{k}", "007", noon + 3600 * k, 2.5) for k in range(4)]


def test_a_file_cut_short_is_named(tmp_path: Path) -> None:
    file = as_parquet(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"orders\.parquet"):
        read(file)
