"""Dated snapshots of what was known of the items: price, sales, buyers and co-purchase neighbours.

    snapshot      0          1          2     …    S-2        S-1
    date        start    start+7d   start+14d      …       end + 1 s

A snapshot holds only what was available strictly before its date. The last one is later than every
checkout: it is for serving, and no example uses it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data.io import engine
from data.tables.coded_log import EncodedTables

DAY = 86_400
WEEK, SALES_WINDOW = 7 * DAY, 28 * DAY  # of what sold lately; of popularity and price
NEIGHBOUR_SCHEMA = pa.schema(
    {"snapshot": pa.int32(), "item": pa.int32(), "neighbour": pa.int32(), "score": pa.float32()}
)
LINES_PER_PART = 1_000_000  # lines whose pairs are counted at once: some GB
MAX_BASKET_LINES = 40  # lines of a basket that form pairs; a larger one says little and costs its square


def snapshot_dates(start: int, end: int, every: int) -> list[int]:
    """Snapshot instants (Unix seconds): every `every` days from `start` to `end`, and one after the end."""
    return [*range(start, end + 1, every * DAY), end + 1]


def item_snapshots(log: EncodedTables, at: list[int], every: int) -> ir.Table:
    """`snapshot, item, price, mean_line_spend, orders_28d, sales_7d, buyers` of items sold in 28 days before
    a snapshot.

    Popularity is the number of orders with the item, lately that of the last 7 days, price the mean unit
    price and spend the mean of what a line paid (null if it was not sold in 28 days): they differ where
    people take several, or where a unit is a drop of fuel. Buyers is the number of users who ever bought it
    by then, and 0 where there is no new one since the last snapshot: `data/catalog.py` takes the running
    maximum, and carries price and spend on. `at` are the `dates`, `every` days apart.
    """
    step, last = every * DAY, len(at) - 1
    lines = log.lines.select("item", "ts", "available", "price", "quantity")
    # Counted out instead of joined by a range: the windows in which a line counts follow one another.
    windows = [
        lines.mutate(snapshot=(lines.ts - at[0]) // step + 1 + k) for k in range(-(-SALES_WINDOW // step))
    ]
    regular = ibis.union(*windows) if len(windows) > 1 else windows[0]
    regular = regular.mutate(date=at[0] + regular.snapshot * step).filter(regular.snapshot < last)
    final = lines.mutate(snapshot=ibis.literal(last, "int64"), date=ibis.literal(at[last], "int64"))
    t = regular.union(final)
    t = t.filter(t.ts >= t.date - SALES_WINDOW, t.available < t.date)
    t = t.mutate(snapshot=t.snapshot.cast("int32")).group_by("snapshot", "item")
    t = t.agg(
        price=ibis._.price.mean().cast("float32"),
        mean_line_spend=(ibis._.price * ibis._.quantity).mean().cast("float32"),
        orders_28d=ibis._.count().cast("int32"),
        sales_7d=(ibis._.ts >= ibis._.date - WEEK).sum().cast("int32"),
    )
    # Every first purchase is counted in the first snapshot behind it, so the cost does not grow with both.
    first = log.lines.group_by("user", "item").agg(at=log.lines.available.min())
    first = first.filter(first["at"] < at[-1])
    first = first.mutate(
        snapshot=ibis.least((first["at"] - at[0]) // (every * DAY) + 1, len(at) - 1).cast("int32"),
        buyers=ibis.row_number().over(group_by="item", order_by=first["at"]) + 1,
    )
    known = first.group_by("snapshot", "item").agg(buyers=first.buyers.max().cast("int32"))
    t = t.outer_join(known, ["snapshot", "item"])
    keys = {name: ibis.coalesce(t[name], t[f"{name}_right"]) for name in ("snapshot", "item")}
    counts = {name: t[name].fill_null(0) for name in ("orders_28d", "sales_7d", "buyers")}
    return t.select(**keys, price=t.price, mean_line_spend=t.mean_line_spend, **counts).order_by(
        "snapshot", "item"
    )


def copurchase_lines(log: EncodedTables, at: list[int]) -> ir.Table:
    """`order, item, since, following`: the lines that form pairs, and the user's next order.

    `since` is the position of the first date of `at` (Unix seconds, rising) behind which a line is known;
    what none knows is left out.
    """
    t = log.lines.select("order", "user", "item", "available")
    t = t.mutate(rank=ibis.row_number().over(group_by="order", order_by="item"))
    t = t.filter(t["rank"] < MAX_BASKET_LINES, t.available < at[-1])
    since = sum((t.available >= date).cast("int32") for date in at[:-1])
    t = t.select("order", "user", "item", since=ibis.literal(0, "int32") + since)
    orders = t.select("user", "order").distinct()  # orders are numbered by time
    following = orders.order.lead().over(group_by="user", order_by="order")
    orders = orders.mutate(following=following.fill_null(-1))
    return t.join(orders, ["user", "order"]).select("order", "item", "since", "following")


def copurchase_counts(lines: ir.Table, part: int = 0, parts: int = 1) -> ir.Table:
    """`item, neighbour, since, both`: how many co-purchases of two items became known with each date.

    Of n_ij, which counts j beside i in one order and j after i in the user's next order: in a shop of
    single-item orders that is all there is. `lines` are the `paired_lines`; only items of `part` of `parts`
    are done, so that pairs fit into memory.
    """
    mine = lines.filter(lines["item"] % parts == part)
    other = lines.select("order", neighbour="item", known="since")
    beside = mine.join(other, [mine.order == other.order, mine["item"] != other.neighbour])
    after = mine.join(other, [mine.following == other.order, mine["item"] != other.neighbour])
    columns = ["item", "neighbour", "since", "known"]
    both = ibis.union(beside.select(columns), after.select(columns))
    both = both.mutate(since=ibis.greatest(both.since, both.known))
    return both.group_by("item", "neighbour", "since").agg(both=ibis._.count())


def filter_min_support(counted: ir.Table) -> ir.Table:
    """Those of the `pairs` that were seen twice by the last date: most were not."""
    often = counted.group_by("item", "neighbour").agg(both=ibis._.both.sum())
    return counted.semi_join(often.filter(often.both >= 2), ["item", "neighbour"])


def copurchase_neighbours(counted: ir.Table, sold: ir.Table, date: int, top: int) -> ir.Table:
    """`item, neighbour, score` at a date: the `top` most co-purchased of every item, best first.

    score = n_ij / sqrt(n_i n_j), where n_ij ≥ 2. `counted` are the `pairs`, `sold` says `item, since, n` and
    `date` is a position in the dates of both.
    """
    pairs = counted.filter(counted.since <= date).group_by("item", "neighbour").agg(both=ibis._.both.sum())
    pairs = pairs.filter(pairs.both >= 2)
    n = sold.filter(sold.since <= date).group_by("item").agg(n=ibis._.n.sum())
    m = n.view()
    scored = pairs.join(n, pairs["item"] == n["item"]).join(m, pairs.neighbour == m["item"])
    scored = scored.select(
        item=pairs["item"], neighbour=pairs.neighbour, score=pairs.both / (n.n.cast("float64") * m.n).sqrt()
    )
    best = ibis.row_number().over(group_by="item", order_by=[scored.score.desc(), scored.neighbour])
    scored = scored.mutate(best=best)
    scored = scored.filter(scored.best < top).order_by("item", "best")
    return scored.select("item", "neighbour", score=scored.score.cast("float32"))


def copurchase_neighbours_by_date(
    con: ibis.BaseBackend, log: EncodedTables, at: list[int], top: int
) -> list[pa.Table]:
    """`item, neighbour, score` at each date of `at` (Unix seconds, rising), by item and best first.

    Pairs are counted once for all dates, those of as many items at a time as PAIR_LINES lines have.
    """
    lines = engine.materialize(con, "paired_lines", copurchase_lines(log, at))
    sold = engine.materialize(con, "sold", lines.group_by("item", "since").agg(n=ibis._.count()))
    parts = -(-int(con.execute(lines.count())) // LINES_PER_PART) or 1
    found: list[list[pa.Table]] = [[] for _ in at]
    for part in range(parts):
        counted = engine.materialize(con, "pairs", copurchase_counts(lines, part, parts))
        counted = engine.materialize(con, "repeated_pairs", filter_min_support(counted))
        for date in range(len(at)):
            found[date].append(con.to_pyarrow(copurchase_neighbours(counted, sold, date, top)))
    engine.drop_tables(con, "paired_lines", "sold", "pairs", "repeated_pairs")
    # Each part is in order, best first: a stable sort by item keeps that.
    return [pa.concat_tables(tables).sort_by("item") for tables in found]


def neighbour_snapshots(at: list[int], cfg: dict[str, Any], first_example: int) -> dict[int, int]:
    """Snapshot → date of those that carry neighbours: every `neighbours_every`-th from
    `neighbours_from_share` of the log on, and the last. `cfg` is `data.snapshots`. Of those before the
    first example (Unix seconds) only the latest: no checkout needs the others."""
    first = int(float(cfg["neighbours_from_share"]) * (len(at) - 1))
    regular = [*range(first, len(at), int(cfg["neighbours_every"]))]
    old = sum(at[k] <= first_example for k in regular)
    return {k: at[k] for k in sorted({*regular[max(old - 1, 0) :], len(at) - 1})}


def write_snapshots(
    con: ibis.BaseBackend, log: EncodedTables, at: list[int], every: int, folder: Path
) -> None:
    """Writes `snapshots.parquet`; arguments as of `popularity`."""
    table = con.to_pyarrow(item_snapshots(log, at, every))
    pq.write_table(table, folder / "snapshots.parquet", compression="zstd")


def write_neighbours(file: Path, found: Iterable[tuple[int, pa.Table]]) -> None:
    """Writes (snapshot, its `item, neighbour, score` by item and best first), in order of snapshots."""
    with pq.ParquetWriter(file, NEIGHBOUR_SCHEMA, compression="zstd") as writer:
        for snapshot, table in found:
            table = table.add_column(0, "snapshot", pa.array([snapshot] * table.num_rows, pa.int32()))
            writer.write_table(table.cast(NEIGHBOUR_SCHEMA))
