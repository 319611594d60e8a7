from pathlib import Path

import ibis
import pyarrow as pa

from data.tables.shared_files import separate_tables
from serving.table_files import TableFile

LINES = pa.table(
    {
        "order_id": ["1", "2", "3", "4", "5", "6"],
        "item_id": ["a", "a", "a", "b", "b", "c"],
        "title": ["MUG", "MUG", "damaged", "PEN", "PEN BLUE", None],
        "price": [1.0, 1.5, 1.25, 2.0, 2.0, 3.0],
    }
)


def test_items_of_one_list_have_their_most_frequent_title_and_latest_price() -> None:
    raw = ibis.memtable(LINES).mutate(_row=ibis.row_number())
    file = TableFile(path=Path("lines.csv"), files=(Path("lines.csv"),))
    items = separate_tables({"orders": raw, "items": raw}, {"orders": file, "items": file})["items"]
    rows = {row["item_id"]: (row["title"], row["price"]) for row in items.to_pyarrow().to_pylist()}
    assert rows == {"a": ("MUG", 1.25), "b": ("PEN BLUE", 2.0), "c": (None, 3.0)}
