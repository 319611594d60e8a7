"""Order lines of a simulated shop after slates of another policy."""

import numpy as np
import pyarrow as pa

Array = np.ndarray


def replace_purchases(orders: pa.Table, order: Array, item: Array, bought: Array, spend: Array) -> pa.Table:
    """Replace the lines of slate items in each user's next order, and return all order lines.

    Of the items of a slate, the next order then holds exactly those in `bought`. A user's orders must have
    consecutive numbers.

    Args:
        orders: `order_id, user_id, item_id, ts, quantity, price`; all but the last two are integers.
        order: [n] number of the order before each slate.
        item: [n, K] item numbers, -1 for an empty slot.
        bought: [n, K] bool.
        spend: [n, K] money.
    """
    columns = {name: orders[name].to_numpy() for name in orders.column_names}
    first_line = {number: line for line, number in reversed(list(enumerate(columns["order_id"].tolist())))}
    follows = np.array([first_line.get(number + 1, -1) for number in order.tolist()])
    users = dict(zip(columns["order_id"].tolist(), columns["user_id"].tolist(), strict=True))
    same_user = np.array([users.get(n + 1) == users.get(n) for n in order.tolist()]) & (follows >= 0)
    has_next = same_user[:, None] & (item >= 0)
    slate_pairs = set(zip(*_pairs(order, item, has_next), strict=True))
    line_pairs = zip(columns["order_id"].tolist(), columns["item_id"].tolist(), strict=True)
    kept = orders.filter(pa.array([pair not in slate_pairs for pair in line_pairs]))
    is_added = has_next & bought
    number, added_item = _pairs(order, item, is_added)
    line = np.repeat(follows, item.shape[1]).reshape(item.shape)[is_added]
    added = {
        "order_id": number,
        "user_id": columns["user_id"][line],
        "item_id": added_item,
        "ts": columns["ts"][line],
        "quantity": np.ones(len(line)),
        "price": spend[is_added],
    }
    names = orders.column_names
    table = pa.table({name: pa.array(added[name]).cast(orders.schema.field(name).type) for name in names})
    return pa.concat_tables([kept, table])


def _pairs(order: Array, item: Array, mask: Array) -> tuple[list[int], list[int]]:
    """Return numbers of the next orders, and items, of the slots that `mask` [n, K] selects."""
    return np.broadcast_to(order[:, None] + 1, item.shape)[mask].tolist(), item[mask].tolist()
