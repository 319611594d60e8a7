"""Neighbour tables: for each item, at some snapshots, related items with scores.

A candidate source reads a table by the name of its file (models/candidates/source.py). To add a table, write
a module that makes it, and add an entry to NEIGHBOUR_TABLES.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from data.examples.copurchase_neighbours import copurchase_neighbours_by_date
from data.examples.ease_neighbours import ease_neighbours_by_date
from data.examples.transition_neighbours import transition_neighbours_by_date
from data.tables.encoded_tables import EncodedTables

# `item, neighbour, score` at each of `dates` (Unix seconds, rising), by item and best first; of the encoded
# tables and `data.snapshots`.
NeighbourTable = Callable[
    [ibis.BaseBackend, EncodedTables, list[int], dict[str, Any]], Iterable[pa.Table]
]  # fmt: skip
# Name of the file, without suffix → the function that makes the table.
NEIGHBOUR_TABLES: dict[str, NeighbourTable] = {
    "copurchase_neighbours": copurchase_neighbours_by_date,
    "ease_neighbours": ease_neighbours_by_date,
    "transition_neighbours": transition_neighbours_by_date,
}
NEIGHBOUR_SCHEMA = pa.schema(
    {"snapshot": pa.int32(), "item": pa.int32(), "neighbour": pa.int32(), "score": pa.float32()}
)


def write_neighbour_tables(
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    date_of: dict[int, int],
    cfg: dict[str, Any],
    folder: Path,
    show_step: Callable[[str], None],
) -> None:
    """Write `<name>.parquet` of each table to a prepared folder.

    Args:
        date_of: snapshots with neighbours → their dates (Unix seconds), rising.
        cfg: `data.snapshots`.
        show_step: called with the step (`table_steps`) that begins.
    """
    for step, (name, make_tables) in zip(table_steps(), NEIGHBOUR_TABLES.items(), strict=True):
        show_step(step)
        tables = make_tables(con, encoded, [*date_of.values()], cfg)
        with pq.ParquetWriter(folder / f"{name}.parquet", NEIGHBOUR_SCHEMA, compression="zstd") as writer:
            for snapshot, table in zip(date_of, tables, strict=True):
                column = pa.array([snapshot] * table.num_rows, pa.int32())
                writer.write_table(table.add_column(0, "snapshot", column).cast(NEIGHBOUR_SCHEMA))


def table_steps() -> list[str]:
    """The names of the preparation steps, one for each table."""
    return [name.replace("_", " ") for name in NEIGHBOUR_TABLES]
