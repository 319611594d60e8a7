"""A prepared folder of a few checkouts, laid out as docs/reference/prepared_folder.md says."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.schema import SECONDS_PER_DAY as DAY

INTS = {"history_item": "int32", "history_kind": "int8", "basket_item": "int32", "outcome_item": "int32"}
INTS |= {"history_ts": "int64"}
FLOATS = ("history_quantity", "history_price", "basket_quantity", "basket_price", "outcome_value")
FLAGS = ("outcome_impression", "outcome_click", "outcome_purchase")
SCALARS = ("ts", "snapshot", "n_prior_orders")


def write_prepared(folder, checkouts, first_sold, first_purchases, snapshots=(), neighbours=(), dates=()):
    """Write the tables; `checkouts` are dicts that may lack list columns, the other arguments are rows."""
    columns = {name: pa.array([str(c[name]) for c in checkouts]) for name in ("order_id", "user_id")}
    columns |= {name: pa.array([c.get(name, 0) for c in checkouts], pa.int64()) for name in SCALARS}
    lists = INTS | dict.fromkeys(FLOATS, "float32") | dict.fromkeys(FLAGS, "bool")
    for name, kind in lists.items():
        column = [list(c.get(name, [])) for c in checkouts]
        columns[name] = pa.array(column, pa.list_(pa.type_for_alias(kind)))
    (folder / "examples").mkdir()
    pq.write_table(pa.table(columns), folder / "examples" / "test.parquet")
    items = {
        "first_sold": pa.array(first_sold, pa.int64()),
        "category": pa.nulls(len(first_sold), pa.string()),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")

    def write(name, rows, fields):
        values = list(zip(*rows, strict=True)) or [[] for _ in fields]
        table = {n: pa.array(v, t) for (n, t), v in zip(fields.items(), values, strict=True)}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")

    i, f = pa.int32(), pa.float32()
    write("first_purchases", first_purchases, {"user_id": pa.string(), "item": i, "ts": pa.int64()})
    write("snapshots", snapshots, {"snapshot": i, "item": i, "price": f, "orders_28d": f})
    write("copurchase_neighbours", neighbours, {"snapshot": i, "item": i, "neighbour": i, "score": f})
    (folder / "meta.json").write_text(json.dumps({"snapshot_dates": list(dates)}))
    return folder


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Four checkouts on day 100; nine items, item 9 first sold on day 95."""
    now = 100 * DAY
    checkouts = [
        {  # buys 1 again, 5 for the first time, and clicks 6
            "order_id": "a", "user_id": "anna", "ts": now, "n_prior_orders": 7, "snapshot": 1,
            "history_item": [1, 2, 1, 4], "history_ts": [90 * DAY, 90 * DAY, 98 * DAY, 99 * DAY],
            "history_kind": [0, 0, 0, 1], "history_quantity": [1, 1, 1, 1], "history_price": [2, 30, 2, 0],
            "basket_item": [3], "basket_quantity": [1], "basket_price": [5],
            "outcome_item": [1, 5, 6], "outcome_purchase": [True, True, False],
            "outcome_impression": [False] * 3, "outcome_click": [True] * 3, "outcome_value": [2.5, 4.0, 0.0],
        },
        {  # a first checkout; buys the new item, and the one just paid again
            "order_id": "b", "user_id": "bert", "ts": now, "n_prior_orders": 0, "snapshot": 1,
            "basket_item": [2], "basket_quantity": [1], "basket_price": [1],
            "outcome_item": [2, 9], "outcome_purchase": [True, True],
            "outcome_impression": [False] * 2, "outcome_click": [True] * 2, "outcome_value": [1.0, 7.0],
        },
        {"order_id": "c", "user_id": "carl", "ts": now, "n_prior_orders": 1, "snapshot": 0,
         "basket_item": [1], "basket_quantity": [1], "basket_price": [1]},  # nothing follows
        {  # buys only what she bought before
            "order_id": "d", "user_id": "dora", "ts": now, "n_prior_orders": 9, "snapshot": 0,
            "basket_item": [1], "basket_quantity": [1], "basket_price": [1], "outcome_item": [4],
            "outcome_purchase": [True],
            "outcome_impression": [False], "outcome_click": [True], "outcome_value": [3.0],
        },
    ]  # fmt: skip
    first_purchases = [
        ("anna", 1, 90 * DAY), ("anna", 2, 90 * DAY), ("anna", 3, now), ("anna", 5, now + DAY),
        ("bert", 2, now), ("bert", 9, now + DAY), ("carl", 1, now), ("dora", 4, 50 * DAY), ("dora", 1, now),
        ("another user", 5, DAY),
    ]  # fmt: skip
    snapshots = [(s, item, 1.0, p) for s, counts in enumerate([[5, 4, 3, 2], [1, 2, 3, 4]])
                 for item, p in enumerate(counts, start=1)]  # fmt: skip
    neighbours = [(1, 3, 7, 0.5), (1, 3, 8, 0.25), (0, 1, 2, 0.9), (1, 2, 6, 0.4)]
    first_sold = [0, *[DAY] * 8, 95 * DAY]
    return write_prepared(
        tmp_path, checkouts, first_sold, first_purchases, snapshots, neighbours, [70 * DAY, 98 * DAY]
    )


@pytest.fixture
def lists():
    """Jagged arrays from nested lists."""

    def jagged(rows, dtype=np.int64):
        return SimpleNamespace(
            offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
            flat=np.array([x for row in rows for x in row], dtype),
        )

    return jagged
