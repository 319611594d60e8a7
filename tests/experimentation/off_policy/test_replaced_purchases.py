"""The order lines of a shop after other slates than its own."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from experimentation.off_policy.replaced_purchases import replace_purchases

SLOTS = 3


@settings(max_examples=50)
@given(st.integers(0, 10_000))
def test_the_next_order_holds_what_was_bought_of_the_slate_and_all_else_it_held(seed: int) -> None:
    rng = np.random.default_rng(seed)
    user_of_order = np.sort(rng.integers(0, 3, 8))
    lines = np.unique(rng.integers(0, [8, 5], [20, 2]), axis=0)
    orders = pa.table(
        {
            "order_id": lines[:, 0],
            "user_id": user_of_order[lines[:, 0]],
            "item_id": lines[:, 1],
            "ts": 1000 + lines[:, 0],
            "quantity": np.full(len(lines), 2.0),
            "price": np.full(len(lines), 9.0),
        }
    )
    order = np.unique(lines[:, 0])[::2]
    item = np.argsort(rng.random([len(order), 5]), axis=1)[:, :SLOTS]
    item[0, -1] = -1
    bought = rng.random(item.shape) < 0.5
    replaced = replace_purchases(orders, order, item, bought, np.full(item.shape, 4.0))
    assert replaced.schema == orders.schema
    expected = dict.fromkeys(map(tuple, lines.tolist()), 9.0)
    present = set(lines[:, 0].tolist())
    for number, items, flags in zip(order.tolist(), item.tolist(), bought.tolist(), strict=True):
        follows = number + 1
        if follows not in present or user_of_order[follows] != user_of_order[number]:
            continue
        for slate_item, is_bought in zip(items, flags, strict=True):
            if slate_item >= 0:
                expected.pop((follows, slate_item), None)
                if is_bought:
                    expected[follows, slate_item] = 4.0
    rows = replaced.to_pylist()
    assert {(row["order_id"], row["item_id"]): row["price"] for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(row["ts"] == 1000 + row["order_id"] for row in rows)
    assert all(row["user_id"] == user_of_order[row["order_id"]] for row in rows)
