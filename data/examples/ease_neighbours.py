"""Item-to-item weights over users' whole pasts: who bought this also buys that, whenever they do.

Co-purchase (data/examples/snapshots.py) knows what goes into one basket or the next. This knows tastes: what
there is to go by for items that a user never bought.
"""

from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from data.tables.coded_log import EncodedTables

MAX_USERS = 200_000  # as many say what a sample of them says
MAX_USER_ITEMS = 1000  # items of one user that count; the cost of a user is their square
RIDGE = 15.0  # times the mean number of buyers of an item


def ease_weights(
    user: NDArray, item: NDArray, items: int, max_items: int, n_neighbours: int
) -> tuple[NDArray, NDArray, NDArray]:
    """EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, equation 8).

    Among the `most` items of most buyers, every item is predicted from the others that its buyers bought: of
    all linear models of a user's items by their other items, the one of least squares and a ridge.

    Args:
        user, item: [n] int64, distinct pairs of who ever bought what; items below `items`.
        keep: how many of the largest positive weights each item keeps.

    Returns: (item [m], neighbour [m], weight [m] float32), by item and falling weight.
    """
    buyers = np.bincount(item, minlength=items)
    chosen = np.argsort(-buyers, kind="stable")[:max_items]
    chosen = np.sort(chosen[buyers[chosen] >= 2])  # one buyer says nothing of others
    if len(chosen) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    column = np.full(items, -1)
    column[chosen] = np.arange(len(chosen))
    user, column = user[column[item] >= 0], column[item][column[item] >= 0]
    row = np.unique(user, return_inverse=True)[1]
    bought = sp.csr_matrix((np.ones(len(user), np.float32), (row, column)))  # [users, M]
    gram = torch.from_numpy((bought.T @ bought).toarray())  # [M, M] users who bought both
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    weight = inverse / -inverse.diagonal()
    weight.fill_diagonal_(0)
    value, neighbour = weight.topk(min(n_neighbours, len(chosen) - 1), dim=1)
    place, rank = (value > 0).nonzero(as_tuple=True)
    return chosen[place.numpy()], chosen[neighbour[place, rank].numpy()], value[place, rank].numpy()


def user_item_pairs(con: ibis.BaseBackend, log: EncodedTables, date: int) -> tuple[NDArray, NDArray]:
    """Who bought what in orders known before `date` (Unix seconds): distinct (user [n], item [n]).

    The latest LONGEST items of each user, of at most USERS users.
    """
    t = log.lines.filter(log.lines.available < date)
    users = t.select("user").distinct()
    scattered = (users.user.cast("int64") * 2_654_435_761) % 2**32  # and the same every time
    t = t.semi_join(users.order_by(scattered).limit(MAX_USERS), "user")
    t = t.group_by("user", "item").agg(last=t.ts.max())
    rank = ibis.row_number().over(group_by="user", order_by=[t["last"].desc(), t["item"]])
    t = t.mutate(rank=rank)
    found = con.to_pyarrow(t.filter(t["rank"] < MAX_USER_ITEMS).select("user", "item"))
    return found["user"].to_numpy().astype(np.int64), found["item"].to_numpy().astype(np.int64)


def ease_neighbours(
    con: ibis.BaseBackend, log: EncodedTables, date: int, items: int, cfg: dict[str, Any]
) -> pa.Table:
    """`item, neighbour, score` at a date (Unix seconds), best first. `items` is N+1, `cfg` data.snapshots."""
    user, item = user_item_pairs(con, log, date)
    columns = ease_weights(user, item, items, int(cfg["ease_items"]), int(cfg["ease_neighbours"]))
    return pa.table(list(columns), names=["item", "neighbour", "score"])
