"""Dated snapshots of what was known of the items: price, sales, buyers and neighbours.

    snapshot      0          1          2     …    S-2        S-1
    date        start    start+7d   start+14d      …       end + 1 s

A snapshot holds only what was available strictly before its date. The last one is later than every
checkout: serving reads it, and no example does.
"""

from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from data.tables.encoded_tables import EncodedTables
from models.schema import SECONDS_PER_DAY

WEEK = 7 * SECONDS_PER_DAY  # window of sales_7d
SALES_WINDOW = 28 * SECONDS_PER_DAY  # window of orders_28d, price and mean_line_spend


def snapshot_dates(start: int, end: int, every_days: int) -> list[int]:
    """Snapshot dates (Unix seconds): every `every_days` days from `start` to `end`, and one after the end."""
    return [*range(start, end + 1, every_days * SECONDS_PER_DAY), end + 1]


def item_snapshots(encoded: EncodedTables, dates: list[int], every_days: int) -> ir.Table:
    """`snapshot, item, price, mean_line_spend, orders_28d, sales_7d, buyers` of items sold in the 28 days
    before a snapshot.

    - `orders_28d`, `sales_7d`: orders with the item in the last 28 and 7 days.
    - `price`: mean unit price; `mean_line_spend`: mean of price times quantity. Both are null without a sale
      in 28 days: `data/catalog.py` carries the last values on.
    - `buyers`: users who ever bought the item by then, or 0 where none is new since the last snapshot:
      `data/catalog.py` takes the running maximum.

    `dates` are the `snapshot_dates`, `every_days` apart.
    """
    step, last = every_days * SECONDS_PER_DAY, len(dates) - 1
    lines = encoded.lines.select("item", "ts", "available_at", "price", "quantity")
    # A line counts in consecutive windows, so they are enumerated, which is cheaper than a range join.
    windows = [
        lines.mutate(snapshot=(lines.ts - dates[0]) // step + 1 + k) for k in range(-(-SALES_WINDOW // step))
    ]
    regular = ibis.union(*windows) if len(windows) > 1 else windows[0]
    regular = regular.mutate(date=dates[0] + regular.snapshot * step).filter(regular.snapshot < last)
    final = lines.mutate(snapshot=ibis.literal(last, "int64"), date=ibis.literal(dates[last], "int64"))
    t = regular.union(final)
    t = t.filter(t.ts >= t.date - SALES_WINDOW, t.available_at < t.date)
    t = t.mutate(snapshot=t.snapshot.cast("int32")).group_by("snapshot", "item")
    t = t.agg(
        price=ibis._.price.mean().cast("float32"),
        mean_line_spend=(ibis._.price * ibis._.quantity).mean().cast("float32"),
        orders_28d=ibis._.count().cast("int32"),
        sales_7d=(ibis._.ts >= ibis._.date - WEEK).sum().cast("int32"),
    )
    buyers = _buyer_counts(encoded, dates, step)
    t = t.outer_join(buyers, ["snapshot", "item"])
    keys = {name: ibis.coalesce(t[name], t[f"{name}_right"]) for name in ("snapshot", "item")}
    counts = {name: t[name].fill_null(0) for name in ("orders_28d", "sales_7d", "buyers")}
    columns = {**keys, "price": t.price, "mean_line_spend": t.mean_line_spend, **counts}
    return t.select(**columns).order_by("snapshot", "item")


def _buyer_counts(encoded: EncodedTables, dates: list[int], step: int) -> ir.Table:
    """`snapshot, item, buyers`, each first purchase counted in the first snapshot after it.

    The cost does not grow with the number of snapshots.
    """
    first = encoded.lines.group_by("user", "item").agg(first_at=encoded.lines.available_at.min())
    first = first.filter(first.first_at < dates[-1])
    first = first.mutate(
        snapshot=ibis.least((first.first_at - dates[0]) // step + 1, len(dates) - 1).cast("int32"),
        buyers=ibis.row_number().over(group_by="item", order_by=first.first_at) + 1,
    )
    return first.group_by("snapshot", "item").agg(buyers=first.buyers.max().cast("int32"))


def neighbour_snapshots(dates: list[int], cfg: dict[str, Any], first_example: int) -> dict[int, int]:
    """Snapshot → date of the snapshots that have neighbours.

    They are every `neighbours_every`-th one after `neighbours_from_share` of the dates, and the last. Before
    the first example only the latest is kept: no checkout reads the others.

    Args:
        cfg: `data.snapshots`.
        first_example: Unix seconds.
    """
    first = int(float(cfg["neighbours_from_share"]) * (len(dates) - 1))
    regular = [*range(first, len(dates), int(cfg["neighbours_every"]))]
    n_before = sum(dates[k] <= first_example for k in regular)
    return {k: dates[k] for k in sorted({*regular[max(n_before - 1, 0) :], len(dates) - 1})}


def write_snapshots(
    con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int], every_days: int, folder: Path
) -> None:
    """Write `snapshots.parquet`; arguments as of `item_snapshots`."""
    table = con.to_pyarrow(item_snapshots(encoded, dates, every_days))
    pq.write_table(table, folder / "snapshots.parquet", compression="zstd")
