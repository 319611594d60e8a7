"""Dated snapshots of the items: the price, sales, buyers and neighbours that were known at a date.

    snapshot      0          1          2     …    S-2        S-1
    date        start    start+7d   start+14d      …       end + 1 s

A snapshot holds only what was available strictly before its date. The last snapshot is later than every
checkout. Serving reads it, but no example does.

The windows of a snapshot end at its date. A window with too few order lines, compared with a usual week, is
extended backwards until it has enough. So closed days and gaps of the log do not empty a window:

    usual week      |||||||   |||||||   |||||||   closed
    7-day window                   └──────────────────▶ date
"""

from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.tables.encoded_tables import EncodedTables
from models.constants import SECONDS_PER_DAY

WEEK_DAYS = 7  # window of sales_7d
SALES_WINDOW_DAYS = 28  # window of orders_28d, price and mean_line_spend
MIN_WINDOW_SHARE = 0.5  # of the usual order lines of its days; a window with fewer is extended
USUAL_DAYS = 112  # the usual volume is the mean over so many days before a snapshot


Counts = NDArray[np.int64]


class SalesWindows(NamedTuple):
    """The first instants (Unix seconds) of the windows of S snapshots."""

    week: list[int]  # of sales_7d
    month: list[int]  # of orders_28d, price and mean_line_spend; never later than the start of `sales_7d`


def snapshot_dates(start: int, end: int, every_days: int) -> list[int]:
    """Snapshot dates (Unix seconds), `every_days` days apart from `start` to `end`, and one after the end."""
    return [*range(start, end + 1, every_days * SECONDS_PER_DAY), end + 1]


def sales_windows(con: ibis.BaseBackend, encoded: EncodedTables, dates: list[int]) -> SalesWindows:
    """The windows of the snapshots of `dates`: 7 and 28 days, or longer where these hold too few order lines.

    A window is too short if it holds less than MIN_WINDOW_SHARE of the usual number of lines. The usual
    number per day is the mean over the USUAL_DAYS before the snapshot. A window that is too short is extended
    by whole days, at most to the start of the log.
    """
    day, known_day = ((encoded.lines[c] - dates[0]) // SECONDS_PER_DAY for c in ("ts", "available_at"))
    counts = encoded.lines.group_by(day=day, known_day=known_day).agg(lines=ibis._.count())
    columns = con.to_pyarrow(counts).to_pydict()
    table = tuple(np.array(columns[name], np.int64) for name in ("day", "known_day", "lines"))
    week, month = [], []
    for date in dates:
        week.append(date - _window_days(date - dates[0], WEEK_DAYS, *table) * SECONDS_PER_DAY)
        month.append(date - _window_days(date - dates[0], SALES_WINDOW_DAYS, *table) * SECONDS_PER_DAY)
    return SalesWindows(week, month)


def _window_days(age: int, days: int, day: Counts, known_day: Counts, lines: Counts) -> int:
    """The length in days of a window of at least `days`, which ends `age` seconds after the start of the log.

    `lines` [n] order lines of a `day` [n] were known on a `known_day` [n], both counted from that start.
    """
    n_days = -(-age // SECONDS_PER_DAY)  # the last day may be incomplete
    is_known = known_day < n_days
    by_day = np.bincount(day[is_known], lines[is_known], minlength=n_days)[::-1]  # the latest day first
    usual = by_day[:USUAL_DAYS].sum() / max(min(n_days, USUAL_DAYS), 1)
    enough = by_day.cumsum() >= MIN_WINDOW_SHARE * days * usual
    return max(days, int(enough.argmax()) + 1 if enough.any() else n_days)


def item_snapshots(
    encoded: EncodedTables, dates: list[int], every_days: int, windows: SalesWindows
) -> ir.Table:
    """Returns a row per snapshot and item that was sold in the snapshot's window.

    The columns are `snapshot`, `item` and

    - `price`, `mean_line_spend`: the mean unit price, and the mean of price times quantity. Both are null
      without a sale in the window; `data/catalog.py` then keeps the last values.
    - `orders_28d`, `sales_7d`: orders with the item in the windows of 28 and 7 days.
    - `buyers`: users who had bought the item by the snapshot, or 0 if none is new since the last snapshot;
      `data/catalog.py` takes the running maximum.

    `dates` are the `snapshot_dates`, `every_days` apart. `windows` are their `sales_windows`.
    """
    step, last = every_days * SECONDS_PER_DAY, len(dates) - 1
    lines = encoded.lines.select("item", "ts", "available_at", "price", "quantity")
    week, month = WEEK_DAYS * SECONDS_PER_DAY, SALES_WINDOW_DAYS * SECONDS_PER_DAY
    apart = [
        s
        for s in range(last)
        if (date := dates[s]) - windows.month[s] > month or date - windows.week[s] > week
    ]
    # A line counts in consecutive windows, so they are enumerated, which is cheaper than a range join.
    parts = [lines.mutate(snapshot=(lines.ts - dates[0]) // step + 1 + k) for k in range(-(-month // step))]
    regular = ibis.union(*parts) if len(parts) > 1 else parts[0]
    regular = regular.mutate(date=dates[0] + regular.snapshot * step).filter(
        regular.snapshot < last, regular.snapshot.notin(apart) if apart else ibis.literal(True)
    )
    regular = regular.filter(regular.ts >= regular.date - month, regular.available_at < regular.date)
    regular = regular.mutate(is_latest=regular.ts >= regular.date - week).drop("date")
    # There are few extended windows, and one last window. Each is read by a scan.
    t = ibis.union(regular, *(_window_lines(lines, dates, windows, s) for s in [*apart, last]))
    t = t.mutate(snapshot=t.snapshot.cast("int32")).group_by("snapshot", "item")
    t = t.agg(
        price=ibis._.price.mean().cast("float32"),
        mean_line_spend=(ibis._.price * ibis._.quantity).mean().cast("float32"),
        orders_28d=ibis._.count().cast("int32"),
        sales_7d=ibis._.is_latest.sum().cast("int32"),
    )
    buyers = _buyer_counts(encoded, dates, step)
    t = t.outer_join(buyers, ["snapshot", "item"])
    keys = {name: ibis.coalesce(t[name], t[f"{name}_right"]) for name in ("snapshot", "item")}
    counts = {name: t[name].fill_null(0) for name in ("orders_28d", "sales_7d", "buyers")}
    columns = {**keys, "price": t.price, "mean_line_spend": t.mean_line_spend, **counts}
    return t.select(**columns).order_by("snapshot", "item")


def _window_lines(lines: ir.Table, dates: list[int], windows: SalesWindows, snapshot: int) -> ir.Table:
    """The order lines in the windows of one snapshot. `is_latest` marks the lines of the shorter window."""
    t = lines.filter(lines.ts >= windows.month[snapshot], lines.available_at < dates[snapshot])
    return t.mutate(snapshot=ibis.literal(snapshot, "int64"), is_latest=t.ts >= windows.week[snapshot])


def _buyer_counts(encoded: EncodedTables, dates: list[int], step: int) -> ir.Table:
    """Counts the buyers of items: `snapshot, item, buyers`.

    A user's first purchase of an item counts in the first snapshot after it.
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
    """Returns snapshot → date, for the snapshots that have neighbours.

    After `neighbours_from_share` of the dates, every `neighbours_every`-th snapshot has neighbours, and so
    does the last. Of these snapshots before the first example only the latest is kept, because no checkout
    reads earlier snapshots.

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
    """Write `snapshots.parquet`. The arguments are those of `item_snapshots`."""
    windows = sales_windows(con, encoded, dates)
    table = con.to_pyarrow(item_snapshots(encoded, dates, every_days, windows))
    pq.write_table(table, folder / "snapshots.parquet", compression="zstd")
