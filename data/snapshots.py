"""Dated snapshots of what was known of the items: price, popularity and co-purchase neighbours.

    snapshot      0          1          2     …    S-2        S-1
    date        start    start+7d   start+14d      …       end + 1 s

A snapshot holds only what was available strictly before its date. The last one is later than every
checkout: it is for serving, and no example uses it.
"""

from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data.log import Log

DAY = 86_400
WINDOW = 28 * DAY  # of popularity and price
MAX_BASKET = 40  # lines of a basket that form pairs; a larger one says little and costs its square


def dates(start: int, end: int, every: int) -> list[int]:
    """Snapshot instants (Unix seconds): every `every` days from `start` to `end`, and one after the end."""
    return [*range(start, end + 1, every * DAY), end + 1]


def popularity(log: Log, at: list[int]) -> ir.Table:
    """`snapshot, item, price, popularity`: rows only of items sold in the 28 days before a snapshot.

    Popularity is the number of orders with the item, price the mean unit price. For items without a row
    the popularity is 0 and the price that of the latest earlier row (`data/catalog.py` carries it on).
    """
    days = ibis.memtable(
        pa.table({"snapshot": pa.array(range(len(at)), pa.int32()), "date": pa.array(at, pa.int64())})
    )
    lines = log.lines.select("item", "ts", "available", "price")
    t = days.join(lines, [days.date > lines.ts, days.date - WINDOW <= lines.ts])
    t = t.filter(t.available < t.date).group_by("snapshot", "item")
    t = t.agg(price=ibis._.price.mean().cast("float32"), popularity=ibis._.count().cast("int32"))
    return t.order_by("snapshot", "item")


def neighbours(log: Log, date: int, top: int) -> ir.Table:
    """`item, neighbour, score` at a date: the `top` most co-purchased of every item, best first.

    score = n_ij / sqrt(n_i n_j) over orders available before `date` (Unix seconds), where n_ij ≥ 2.
    """
    t = log.lines.filter(log.lines.available < date).select("order", "item")
    rank = ibis.row_number().over(group_by="order", order_by="item")
    t = t.mutate(rank=rank)
    t = t.filter(t.rank < MAX_BASKET).drop("rank")
    n = t.group_by("item").agg(n=ibis._.count())
    other = t.view()
    # Each pair once, then mirrored: half the work of the full square.
    pairs = t.join(other, [t.order == other.order, t.item < other.item]).select(
        item=t.item, neighbour=other.item
    )
    pairs = pairs.group_by("item", "neighbour").agg(both=ibis._.count())
    pairs = pairs.filter(pairs.both >= 2)
    pairs = pairs.union(pairs.select(item=pairs.neighbour, neighbour=pairs.item, both=pairs.both))
    m = n.view()
    scored = pairs.join(n, pairs.item == n.item).join(m, pairs.neighbour == m.item)
    scored = scored.select(
        item=pairs.item, neighbour=pairs.neighbour, score=pairs.both / (n.n.cast("float64") * m.n).sqrt()
    )
    best = ibis.row_number().over(group_by="item", order_by=[scored.score.desc(), scored.neighbour])
    scored = scored.mutate(best=best)
    scored = scored.filter(scored.best < top).order_by("item", "best")
    return scored.select("item", "neighbour", score=scored.score.cast("float32"))


def neighbour_snapshots(at: list[int], every: int, from_share: float) -> list[int]:
    """Which snapshots carry neighbours: every `every`-th from `from_share` of the log on, and the last."""
    first = int(from_share * (len(at) - 1))
    return sorted({*range(first, len(at), every), len(at) - 1})


def write(con: ibis.BaseBackend, log: Log, at: list[int], folder: Path) -> None:
    """Writes `snapshots.parquet`."""
    pq.write_table(con.to_pyarrow(popularity(log, at)), folder / "snapshots.parquet", compression="zstd")


def write_neighbours(
    con: ibis.BaseBackend, log: Log, at: list[int], cfg: dict[str, Any], folder: Path
) -> None:
    """Writes `neighbours.parquet`. `cfg` is `data.snapshots`."""
    chosen = neighbour_snapshots(at, int(cfg["neighbours_every"]), float(cfg["neighbours_from_share"]))
    schema = pa.schema(
        {"snapshot": pa.int32(), "item": pa.int32(), "neighbour": pa.int32(), "score": pa.float32()}
    )
    with pq.ParquetWriter(folder / "neighbours.parquet", schema, compression="zstd") as writer:
        for k in chosen:
            table = con.to_pyarrow(neighbours(log, at[k], int(cfg["neighbours"])))
            table = table.add_column(0, "snapshot", pa.array([k] * table.num_rows, pa.int32()))
            writer.write_table(table.cast(schema))
