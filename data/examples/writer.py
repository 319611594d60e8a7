"""Writes the examples: one row per checkout, with its inputs and its outcomes.

Checkouts are joined in chunks, because joins copy every history list.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import feature_schema
from data.examples.histories import HISTORY_TYPES, count_prior_events, history_lists, slice_history
from data.examples.labels import LabelSpec
from data.examples.outcomes import (
    ALL_OUTCOMES,
    OutcomeSpec,
    attribute_to_checkouts,
    outcome_lists,
    outcome_types,
)
from data.examples.splits import CENSORED, PURGED, SPLITS
from data.feature_schema import FeatureSchema
from data.io import engine, lists
from data.tables.encoded_tables import EncodedTables
from models.constants import SECONDS_PER_DAY

CHUNK_HISTORY_EVENTS = 2_000_000  # history events per query: some 50 MB of lists, and their copies
MAX_CHUNKS = 150  # most queries for a split, because each reads the lists of all users again
CHECKOUT_COST = 64  # a checkout without a history takes as much memory as so many history events
ROW_GROUP = 1024
BASKET_TYPES = {"item": "int32", "quantity": "float32", "price": "float32"}
CODE_TYPES = {"context": "int32", "profile": "int32"}


class ExampleCounts(NamedTuple):
    """Counts of examples, by split."""

    with_purchase: dict[str, int]  # checkouts
    with_impressions: dict[str, int]  # checkouts
    with_ghosts: dict[str, int]  # checkouts whose slate was held back
    positives: dict[str, dict[str, int]]  # label → (checkout, item) pairs with a positive value


class ExampleInputs(NamedTuple):
    """Materialized tables that every chunk of checkouts reads."""

    encoded: EncodedTables
    history: ir.Table  # per user, of `history_lists`
    basket: ir.Table  # per order, of `basket_lists`
    events: ir.Table  # by order and item, of `attribute_to_checkouts`
    schema: FeatureSchema
    outcomes: OutcomeSpec


class Chunk(NamedTuple):
    """Consecutive checkouts, which are joined together."""

    checkouts: ir.Table
    bounds: tuple[int, int]  # first ts, last horizon_end


def basket_lists(encoded: EncodedTables) -> ir.Table:
    """Returns each order's lists `basket_{item,quantity,price}` of its own lines, by item."""
    t = encoded.lines.mutate(**{c: encoded.lines[c].cast(k) for c, k in BASKET_TYPES.items()})
    return lists.collect_lists(t, "order", {f"basket_{c}": c for c in BASKET_TYPES}, ["item"])


def example_rows(chunk: Chunk, inputs: ExampleInputs) -> ir.Table:
    """The example rows of a chunk, not sorted. `order` is the first column."""
    encoded, schema = inputs.encoded, inputs.schema
    outcome_columns = outcome_types(inputs.outcomes.labels)
    outcome = outcome_lists(encoded, chunk.checkouts, inputs.events, chunk.bounds, inputs.outcomes)
    t = chunk.checkouts.left_join(inputs.basket, "order").drop("order_right")
    t = t.left_join(outcome, "order").drop("order_right")
    t = t.left_join(inputs.history, "user").drop("user_right")  # the widest last: no later join copies it
    last = t.n_history.cast("int64")
    first = ibis.greatest(last - schema.max_history, 0)
    columns = {
        **slice_history(t, first, last, encoded.has_late_arrivals),
        **{f"basket_{c}": t[f"basket_{c}"] for c in BASKET_TYPES},
        "context": feature_schema.attribute_codes(t, schema.context, "context_"),
        "profile": t.profile_codes,
        **{f"outcome_{c}": t[f"outcome_{c}"] for c in outcome_columns},
        "purchase_delay": t.purchase_delay,
    }
    types = CODE_TYPES | {"purchase_delay": "int32"}
    for group, group_types in (
        ("history", HISTORY_TYPES), ("basket", BASKET_TYPES), ("outcome", outcome_columns)
    ):  # fmt: skip
        types |= {f"{group}_{c}": kind for c, kind in group_types.items()}
    filled = {
        name: value.fill_null(ibis.literal([], type=f"array<{types[name]}>"))
        for name, value in columns.items()
    }
    facts = ("order", "order_id", "user_id", "ts", "horizon_end", "snapshot", "n_prior_orders")
    return t.select(*facts, **filled)


def write_examples(
    con: ibis.BaseBackend,
    encoded: EncodedTables,
    assigned: ir.Table,
    schema: FeatureSchema,
    every_days: int,
    folder: Path,
    outcomes: OutcomeSpec = ALL_OUTCOMES,
) -> ExampleCounts:
    """Write `examples/{train,validation,test}.parquet`, and a file for each other split with checkouts.

    Args:
        assigned: `order, order_id, user, ts, horizon_end, split` and the context columns.
        every_days: days between two snapshots.
        outcomes: `encoded` holds the events and returns of its labels.
    """
    profile_codes = feature_schema.attribute_codes(encoded.users, schema.profile, "profile_")
    profiles = encoded.users.select("user", "user_id", profile_codes=profile_codes)
    profiles = engine.materialize(con, "user_profiles", profiles)
    t = assigned.filter(assigned.split.isin([*SPLITS, PURGED, *CENSORED]))
    t = t.join(count_prior_events(encoded), "order").join(profiles, "user")
    t = t.mutate(snapshot=(t.ts - encoded.start) // (every_days * SECONDS_PER_DAY))
    checkouts = engine.materialize(con, "example_checkouts", t)
    inputs = ExampleInputs(
        encoded=encoded,
        history=engine.materialize(con, "history_lists", history_lists(encoded)),
        basket=engine.materialize(con, "basket_lists", basket_lists(encoded)),
        events=engine.materialize(
            con, "checkout_events", attribute_to_checkouts(encoded, assigned, outcomes.labels)
        ),
        schema=schema,
        outcomes=outcomes,
    )
    (folder / "examples").mkdir()
    columns = _positive_columns(encoded, outcomes.labels)
    zeros = {label: dict.fromkeys(SPLITS, 0) for label in columns}
    purchases, impressions, ghosts = (dict.fromkeys(SPLITS, 0) for _ in range(3))
    counts = ExampleCounts(purchases, impressions, ghosts, zeros)
    for split in (*SPLITS, PURGED, *CENSORED):
        tables = (
            con.to_pyarrow(example_rows(chunk, inputs))
            for chunk in _chunks(con, checkouts.filter(checkouts.split == split), schema.max_history)
        )
        for table in _write_tables(folder / "examples" / f"{split}.parquet", tables):
            if split not in SPLITS:
                continue
            counts.with_purchase[split] += _count_rows_with_any(table, "outcome_purchase")
            counts.with_impressions[split] += _count_rows_with_any(table, "outcome_impression")
            counts.with_ghosts[split] += _count_rows_with_any(table, "outcome_ghost")
            for label, column in columns.items():
                counts.positives[label][split] += _count_positives(table, column)
    return counts


def _write_tables(path: Path, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Write each table's example rows, sorted by `order`, to one file, and yield the table.

    Without tables no file is written.
    """
    writer: pq.ParquetWriter | None = None
    for rows in tables:
        # Arrow sorts wide rows several times faster than the engine.
        table = rows.take(pc.sort_indices(rows["order"])).drop_columns("order").combine_chunks()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table, row_group_size=ROW_GROUP)
        yield table
    if writer is not None:
        writer.close()


def _positive_columns(encoded: EncodedTables, labels: Sequence[LabelSpec]) -> dict[str, str]:
    """Returns label → its column in the examples.

    Without logged clicks, `click` is a proxy click and has no column.
    """
    base = {"click": "outcome_click"} if encoded.clicks_logged else {}
    base |= {"purchase": "outcome_purchase", "spend": "outcome_value"}
    return base | {spec.key: f"outcome_{spec.key}" for spec in labels}


def _chunks(con: ibis.BaseBackend, checkouts: ir.Table, max_history: int) -> Iterator[Chunk]:
    """Cuts the checkouts into at most MAX_CHUNKS chunks of about CHUNK_HISTORY_EVENTS events or more.

    Every chunk reads all users' lists, so there should be few chunks.
    """
    t = con.to_pyarrow(checkouts.select("order", "ts", "horizon_end", "n_history").order_by("order"))
    cost = np.minimum(t["n_history"].to_numpy(), max_history) + CHECKOUT_COST
    chunk_cost = max(CHUNK_HISTORY_EVENTS, int(cost.sum()) // MAX_CHUNKS)
    chunk_of = (np.cumsum(cost) - cost) // chunk_cost
    starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
    stops = np.append(starts[1:], len(chunk_of))[: len(starts)]  # no checkouts, no chunks
    for start, stop in zip(starts, stops, strict=True):
        rows = t.slice(start, stop - start)
        first, last = rows["order"][0].as_py(), rows["order"][-1].as_py()
        bounds = (rows["ts"][0].as_py(), pc.max(rows["horizon_end"]).as_py())
        yield Chunk(checkouts.filter(checkouts.order.between(first, last)), bounds)


def _count_rows_with_any(table: pa.Table, flags: str) -> int:
    """Counts the rows with at least one true value in the list column `flags`."""
    column = table[flags].combine_chunks()
    return len(pc.unique(pc.list_parent_indices(column).filter(column.flatten())))


def _count_positives(table: pa.Table, name: str) -> int:
    """Counts the values above 0 in a list column."""
    values = table[name].combine_chunks().flatten()
    return int(pc.sum(pc.greater(values.cast(pa.float32()), 0)).as_py() or 0)
