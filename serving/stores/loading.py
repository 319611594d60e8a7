"""Filling a store at once: from an exported `store.arrow`, or from the canonical tables of a shop.

Rows are streamed: memory holds a batch of them. Loading adds to what the store has. A load that broke off can
be done again, for the same batch of the same file counts once; a file with other rows counts as new.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..checkout import HISTORY_KINDS, MAX_NUMBER, MAX_TS
from .arrow import ArrowStore
from .base import Store, UserHistory

BATCH_ROWS = 262_144  # of a table in memory; larger batches make fewer chunks by user
BATCH_USERS = 2_000  # of a store.arrow between two calls of `progress`
ORDER_COLUMNS = ("user_id", "item_id", "ts", "quantity", "price")
EVENT_COLUMNS = ("user_id", "item_id", "ts", "kind")

ProgressCallback = Callable[[int, int], None]  # events so far, and of how many (0 where it is not known)
UserHistories = Iterator[tuple[str, UserHistory]]


def bulk_load(store: Store, path: Path, progress: ProgressCallback) -> int:
    """Append what `source` holds to the store. Returns the number of events.

    Args:
        source: an exported `store.arrow`, or a folder with `orders.parquet` (its lines are the purchases),
            `events.parquet` (its clicks and cart events) or both; each a file or a folder of files.
        progress: called after every batch.

    Raises FileNotFoundError, ValueError naming the file and the row for what cannot be an event, and what
    `store.load` raises.
    """
    batches = _read_arrow_store(path) if path.suffix == ".arrow" else _read_tables(path)
    done = 0
    for some, of in batches:
        users = list(some)
        store.append_many(users)
        done += sum(len(facts.item_id) for _, facts in users)
        progress(done, of)
    return done


def _read_arrow_store(file: Path) -> Iterator[tuple[UserHistories, int]]:
    users = ArrowStore.open(file).iter_users()
    while some := list(islice(users, BATCH_USERS)):
        yield iter([(user_id, _drop_null_attributes(facts)) for user_id, facts in some]), 0


def _drop_null_attributes(facts: UserHistory) -> UserHistory:
    """Without the attributes that are null."""
    known = {name: value for name, value in facts.profile.items() if value is not None}
    return UserHistory(facts.item_id, facts.ts, facts.kind, facts.quantity, facts.price, known)


def _read_tables(folder: Path) -> Iterator[tuple[UserHistories, int]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a store.arrow, or a folder with orders.parquet")
    found = [
        (folder / f"{name}.parquet", columns)
        for name, columns in (("events", EVENT_COLUMNS), ("orders", ORDER_COLUMNS))
    ]
    files = [
        (file, columns)
        for path, columns in found  # clicks first: at the same instant they come before the purchase
        for file in (sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.exists() else [])
    ]
    if not files:
        raise FileNotFoundError(f"{folder}: neither orders.parquet nor events.parquet is there")
    of = sum(pq.read_metadata(file).num_rows for file, _ in files)
    for file, columns in files:
        source = pq.ParquetFile(file)
        if missing := [name for name in columns if name not in source.schema_arrow.names]:
            raise ValueError(
                f"{file}: no column {', '.join(missing)} (docs/architecture.md, canonical tables)"
            )
        row = 1
        for batch in source.iter_batches(BATCH_ROWS, columns=list(columns)):
            yield _group_by_user(_event_columns(batch, file, row)), of
            row += batch.num_rows


def _event_columns(batch: pa.RecordBatch, file: Path, first: int) -> pa.Table:
    """The rows that enter histories, checked, with the types of Facts. `first` is the first row's number."""
    columns = {
        name: _cast(batch[name], name, wanted, file)
        for name, wanted in (("user_id", pa.string()), ("item_id", pa.string()), ("ts", pa.int64()))
    }
    if "kind" in batch.schema.names:
        kind = _cast(batch["kind"], "kind", pa.string(), file)
        columns["kind"] = pc.index_in(kind, pa.array(HISTORY_KINDS))  # null for impressions
        columns["quantity"], columns["price"] = (pa.array(np.full(len(kind), x)) for x in (1.0, 0.0))
        wanted = pc.is_in(kind, pa.array(["click", "cart"]))
        known = pc.is_in(kind, pa.array(["impression", "click", "cart", "purchase"]))
    else:
        columns["kind"] = pa.array(np.zeros(batch.num_rows, np.int64))
        columns["quantity"] = _cast(batch["quantity"], "quantity", pa.float64(), file)
        columns["price"] = _cast(batch["price"], "price", pa.float64(), file)
        wanted = known = pa.array(np.ones(batch.num_rows, bool))
    rules = {
        "kind": known,
        "user_id": pc.greater(pc.utf8_length(columns["user_id"]), 0),
        "item_id": pc.greater(pc.utf8_length(columns["item_id"]), 0),
        "ts": pc.and_(pc.greater_equal(columns["ts"], 0), pc.less(columns["ts"], MAX_TS)),
        "quantity": pc.and_(
            pc.greater(columns["quantity"], 0), pc.less_equal(columns["quantity"], MAX_NUMBER)
        ),
        "price": pc.and_(pc.greater_equal(columns["price"], 0), pc.less_equal(columns["price"], MAX_NUMBER)),
    }
    for name, rule in rules.items():
        bad = np.flatnonzero(~pc.fill_null(rule, False).to_numpy(zero_copy_only=False))
        if len(bad):
            value = batch[name][int(bad[0])].as_py()
            raise ValueError(
                f"{file}: row {first + int(bad[0])}: {name} is {value!r}, which cannot be loaded"
            )
    return pa.table(columns).filter(wanted)


def _cast(column: pa.Array, name: str, wanted: pa.DataType, file: Path) -> pa.Array:
    found = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kinds = pa.types
    try:
        if wanted == pa.int64() and (kinds.is_timestamp(found) or kinds.is_date(found)):
            # Unsafe, for a fraction of a second is cut off.
            return column.cast(pa.timestamp("s", getattr(found, "tz", None)), safe=False).cast(wanted)
        text = kinds.is_string(found) or kinds.is_large_string(found)
        number = kinds.is_floating(found) or kinds.is_decimal(found)
        if kinds.is_integer(found) or (text if wanted == pa.string() else number and wanted == pa.float64()):
            return column.cast(wanted)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: column {name}: {error}") from error
    raise ValueError(f"{file}: column {name} is {column.type}, expected {wanted}. To do: cast it")


def _group_by_user(table: pa.Table) -> UserHistories:
    """The rows by user, in their order."""
    if not len(table):
        return
    table = table.take(pc.sort_indices(table, [("user_id", "ascending")])).combine_chunks()
    runs = pc.run_end_encode(table["user_id"].chunk(0))
    item_id = table["item_id"].to_pylist()
    ts, kind, quantity, price = (
        table[name].to_numpy().astype(kind)
        for name, kind in (("ts", "int64"), ("kind", "int64"), ("quantity", "float32"), ("price", "float32"))
    )
    start = 0
    for user_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        here = slice(start, end)
        yield user_id, UserHistory(item_id[here], ts[here], kind[here], quantity[here], price[here])
        start = end
