"""What the tables of item pairs share: their lines, counts in parts, and the best neighbours of an item."""

from collections.abc import Callable

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data.tables.encoded_tables import EncodedTables

LINES_PER_PART = 1_000_000  # lines whose pairs are counted at once: some GB
MAX_BASKET_LINES = 40  # lines of an order that form pairs; their number is the square


def pair_lines(encoded: EncodedTables, dates: list[int]) -> ir.Table:
    """`order, user, item, date_index`: the lines that form pairs.

    `date_index` is the position of the first of `dates` (Unix seconds, rising) at which a line is known.
    Lines known at none of them are absent.
    """
    t = encoded.lines.select("order", "user", "item", "available_at")
    t = t.mutate(rank=ibis.row_number().over(group_by="order", order_by="item"))
    t = t.filter(t["rank"] < MAX_BASKET_LINES, t.available_at < dates[-1])
    n_dates_before = sum((t.available_at >= date).cast("int32") for date in dates[:-1])
    return t.select("order", "user", "item", date_index=ibis.literal(0, "int32") + n_dates_before)


def best_neighbours(scored: ir.Table, top: int) -> ir.Table:
    """`item, neighbour, score`: the `top` neighbours of highest score of every item, best first."""
    rank = ibis.row_number().over(group_by="item", order_by=[scored.score.desc(), scored.neighbour])
    ranked = scored.mutate(rank=rank)
    ranked = ranked.filter(ranked["rank"] < top).order_by("item", "rank")
    return ranked.select("item", "neighbour", "score")


def neighbours_in_parts(
    con: ibis.BaseBackend,
    lines: ir.Table,
    n_dates: int,
    count_pairs: Callable[[int, int], ir.Table],
    neighbours_at: Callable[[ir.Table, int], ir.Table],
) -> list[pa.Table]:
    """`item, neighbour, score` at each of `n_dates` dates, by item and best first.

    Pairs are counted once for all dates, in parts of as many items as LINES_PER_PART lines have.

    Args:
        lines: materialized `pair_lines`.
        count_pairs: materialized counts of the pairs of a part, of its number and the number of parts.
        neighbours_at: the `best_neighbours` by such counts at the date of an index.
    """
    parts = -(-int(con.execute(lines.count())) // LINES_PER_PART) or 1
    tables_of: list[list[pa.Table]] = [[] for _ in range(n_dates)]
    for part in range(parts):
        counts = count_pairs(part, parts)
        for date_index, tables in enumerate(tables_of):
            tables.append(con.to_pyarrow(neighbours_at(counts, date_index)))
    # Each part is in order, best first: a stable sort by item keeps that.
    return [pa.concat_tables(tables).sort_by("item") for tables in tables_of]
