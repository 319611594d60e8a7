"""EASE neighbours: items that the buyers of an item also buy, at any time.

Co-purchase reads only an order and the next order. EASE reads whole purchase histories.
"""

from collections.abc import Iterator
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from data.tables.encoded_tables import EncodedTables

MAX_USERS = 200_000  # a sample of this size gives the same weights
MAX_USER_ITEMS = 1000  # most items of one user; the cost of a user is their square
RIDGE = 15.0  # times the mean number of buyers of an item


def ease_weights(
    user: NDArray, item: NDArray, items: int, max_items: int, n_neighbours: int
) -> tuple[NDArray, NDArray, NDArray]:
    """Computes the weights of EASE between items.

    A ridge regression predicts every item of a user from the user's other items (Steck, "Embarrassingly
    shallow autoencoders for sparse data", WWW 2019, equation 8). Only the `max_items` items with the most
    buyers are used.

    Args:
        user, item: [n] int64, distinct pairs of a user and a bought item; items below `items`.
        n_neighbours: how many of the largest positive weights each item keeps.

    Returns: (item [m], neighbour [m], weight [m] float32), by item and falling weight.
    """
    buyers = np.bincount(item, minlength=items)
    kept_items = np.argsort(-buyers, kind="stable")[:max_items]
    kept_items = np.sort(kept_items[buyers[kept_items] >= 2])  # one buyer is no evidence
    if len(kept_items) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    column = np.full(items, -1)
    column[kept_items] = np.arange(len(kept_items))
    user, column = user[column[item] >= 0], column[item][column[item] >= 0]
    row = np.unique(user, return_inverse=True)[1]
    purchases = sp.csr_matrix((np.ones(len(user), np.float32), (row, column)))  # [users, M]
    gram = torch.from_numpy((purchases.T @ purchases).toarray())  # [M, M] users who bought both
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weight = inverse / -inverse.diagonal()
    weight.fill_diagonal_(0)
    value, neighbour = weight.topk(min(n_neighbours, len(kept_items) - 1), dim=1)
    item_index, rank = (value > 0).nonzero(as_tuple=True)
    return (
        kept_items[item_index.numpy()],
        kept_items[neighbour[item_index, rank].numpy()],
        value[item_index, rank].numpy(),
    )


def user_item_pairs(con: ibis.BaseBackend, encoded: EncodedTables, date: int) -> tuple[NDArray, NDArray]:
    """Reads the distinct pairs (user [n], item [n]) of orders known before `date` (Unix seconds).

    At most MAX_USERS users are read, and the latest MAX_USER_ITEMS items of each user.
    """
    t = encoded.lines.filter(encoded.lines.available_at < date)
    users = t.select("user").distinct()
    scattered = (users.user.cast("int64") * 2_654_435_761) % 2**32  # the same sample every time
    t = t.semi_join(users.order_by(scattered).limit(MAX_USERS), "user")
    t = t.group_by("user", "item").agg(last_ts=t.ts.max())
    rank = ibis.row_number().over(group_by="user", order_by=[t.last_ts.desc(), t["item"]])
    t = t.mutate(rank=rank)
    pairs = con.to_pyarrow(t.filter(t["rank"] < MAX_USER_ITEMS).select("user", "item"))
    return pairs["user"].to_numpy().astype(np.int64), pairs["item"].to_numpy().astype(np.int64)


def ease_neighbours_by_date(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], cfg: dict[str, Any]
) -> Iterator[pa.Table]:
    """Returns `item, neighbour, score` at each of `dates` (Unix seconds), by item, best first.

    `cfg` is `data.snapshots`. The `ease_items` items with the most buyers keep up to `ease_neighbours`
    neighbours each.
    """
    rows = int(con.execute(encoded.items.count())) + 1
    for date in dates:
        user, item = user_item_pairs(con, encoded, date)
        columns = ease_weights(user, item, rows, int(cfg["ease_items"]), int(cfg["ease_neighbours"]))
        yield pa.table(list(columns), names=["item", "neighbour", "score"])
