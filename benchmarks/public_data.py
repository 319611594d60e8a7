"""Public purchase sequences: their files, their canonical tables, and the rules of their protocols.

Each line of a file has one user's purchases, oldest first:

| file | line | protocol |
|---|---|---|
| Toys_and_Games.txt, Sports_and_Outdoors.txt | `user item item …`, an item per order | leave-one-out |
| tafeng_half.txt | `user<TAB>item item\\|item\\|item item`, a basket per order | next basket |

The last order of a user is the target; all orders before it are known. Under leave-one-out no list shows an
item that the user bought before.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from evaluation.jagged import Array, to_offsets
from evaluation.metrics import Purchases
from models.schema import SECONDS_PER_DAY

SOURCES = {
    "Toys_and_Games": "Toys_and_Games.txt of RUCAIBox/CIKM2020-S3Rec, folder data (Amazon reviews, 5-core)",
    "Sports_and_Outdoors": "Sports_and_Outdoors.txt of RUCAIBox/CIKM2020-S3Rec, folder data (Amazon reviews, "
    "5-core)",
    "tafeng_half": "the Ta-Feng grocery log, every second user, as `user<TAB>item item|item …` a line",
}
MIN_ORDERS = 3  # history, the checkout, the target
# The files have no times. Days of the synthetic log: validation, test, and the week of the targets start.
START = 16_071 * SECONDS_PER_DAY  # 2014-01-01
VALIDATION, TEST, TARGETS = (START + day * SECONDS_PER_DAY for day in (120, 127, 134))
WEEK = 7 * SECONDS_PER_DAY
VALIDATION_USERS = 0.1  # the share of users with a checkout dated in the validation week


class PublicSet(NamedTuple):
    """U users with L distinct (order, item) lines, by user and order."""

    name: str
    user_ids: list[str]  # [U]
    item_ids: list[str]  # [I]
    n_orders: Array  # [U] int64, at least MIN_ORDERS
    user: Array  # [L] int64, rows of user_ids
    order: Array  # [L] int64, position of the order among the user's, 0 for the first
    item: Array  # [L] int64, rows of item_ids
    quantity: Array  # [L] float64, how often the order lists the item
    is_leave_one_out: bool  # one item an order: what the user bought before is kept off the list


class Lines(NamedTuple):
    """Distinct (order, item) lines, by user and order."""

    user: Array  # [M] int64
    order: Array  # [M] int64
    item: Array  # [M] int64


def read_public_set(file: Path) -> PublicSet:
    """The sequences of a file; users with fewer than MIN_ORDERS orders are left out.

    Raises DataError if no user has MIN_ORDERS orders.
    """
    user_ids, sequences = [], []
    for line in file.read_text().splitlines():
        user, orders = parse_line(line)
        if len(orders) >= MIN_ORDERS:
            user_ids.append(user)
            sequences.append(orders)
    if not sequences:
        raise DataError(
            f"{file}: no user has {MIN_ORDERS} orders. Expected a line for each user: user item item"
        )
    item_ids = sorted({item for orders in sequences for order in orders for item in order}, key=_id_order)
    row_of = {item: row for row, item in enumerate(item_ids)}
    lines = [
        (user, position, row_of[item], order.count(item))
        for user, orders in enumerate(sequences)
        for position, order in enumerate(orders)
        for item in sorted(set(order))
    ]
    user, order, item, quantity = np.array(lines, np.int64).T
    return PublicSet(
        name=file.stem,
        user_ids=user_ids,
        item_ids=item_ids,
        n_orders=np.array([len(orders) for orders in sequences]),
        user=user,
        order=order,
        item=item,
        quantity=quantity.astype(np.float64),
        is_leave_one_out=all(len(order) == 1 for orders in sequences for order in orders),
    )


def parse_line(line: str) -> tuple[str, list[list[str]]]:
    """Return the user of a line, and the items of each of the user's orders."""
    if "\t" in line:
        user, text = line.split("\t")
        return user, [items for order in text.split("|") if (items := order.split())]
    user, *items = line.split()
    return user, [[item] for item in items]


def _id_order(item: str) -> tuple[int, str]:
    """The sort key of an item id: numbers by size, then text."""
    return (int(item), "") if item.isdigit() else (2**62, item)


def known_lines(public: PublicSet, n_held_out: int = 1) -> Lines:
    """Return the lines of each user's orders, without the last `n_held_out` orders."""
    mask = public.order < (public.n_orders - n_held_out)[public.user]
    return Lines(public.user[mask], public.order[mask], public.item[mask])


def targets(public: PublicSet) -> Purchases:
    """The last order of each user, by user; the value of each item is 1."""
    mask = public.order == (public.n_orders - 1)[public.user]
    counts = np.bincount(public.user[mask], minlength=len(public.user_ids))
    return Purchases(to_offsets(counts), public.item[mask], np.ones(int(mask.sum())))


def order_times(n_orders: Array, seed: int = 0) -> list[Array]:
    """Unix seconds of the orders of each user, ascending.

    The target is in the last week, and the checkout before it in the test week. A tenth of the users have one
    more order in the validation week. All other orders have random earlier times, so that the shop's volume
    is even.
    """
    rng = np.random.default_rng(seed)
    times = []
    for n in n_orders:
        validates = rng.random() < VALIDATION_USERS and n > MIN_ORDERS
        last = [TEST + rng.integers(WEEK), TARGETS + rng.integers(WEEK)]
        if validates:
            last.insert(0, VALIDATION + rng.integers(WEEK))
        end = VALIDATION if validates else TEST
        early = START + np.sort(rng.integers(0, end - START, n - len(last)))
        times.append(np.concatenate([early, last]).astype(np.int64))
    return times


def write_tables(public: PublicSet, folder: Path) -> None:
    """Write orders.parquet and items.parquet. An item's title is its number; all unit prices are 1."""
    folder.mkdir(parents=True, exist_ok=True)
    first = to_offsets(public.n_orders)[:-1]
    ts = np.concatenate(order_times(public.n_orders))[first[public.user] + public.order]
    users, items = np.array(public.user_ids), np.array(public.item_ids)
    pairs = zip(users[public.user], public.order, strict=True)
    orders = {
        "order_id": [f"{user}-{position}" for user, position in pairs],
        "user_id": users[public.user],
        "item_id": items[public.item],
        "ts": ts,
        "quantity": public.quantity,
        "price": np.ones(len(ts)),
    }
    pq.write_table(pa.table(orders), folder / "orders.parquet")
    catalog = {"item_id": items, "title": [f"item {item}" for item in public.item_ids]}
    pq.write_table(pa.table(catalog), folder / "items.parquet")


def training_settings(folder: Path) -> list[str]:
    """The overrides of train.py for the tables in `folder`.

    The horizon is the next order, and repeats of the basket's items count.
    """
    dates = {"validation_start": VALIDATION, "test_start": TEST, "test_end": TARGETS}
    return [
        "data=tables",
        f"data.root={folder}",
        "data.horizon=next_order",
        *(f"data.split.{name}={np.datetime64(ts, 's').astype('M8[D]')}" for name, ts in dates.items()),
        "slate.exclude_basket=false",
    ]


def find_file(folder: Path, name: str) -> Path | None:
    """Return the file of a set. If the folder lacks it, print where to get it, and return None."""
    file = folder / f"{name}.txt"
    if file.is_file():
        return file
    print(f"{name} is skipped: {file} is missing. It is {SOURCES[name]}", flush=True)
    return None
