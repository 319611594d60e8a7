"""Fills a store from an exported `store.arrow`, or from the canonical tables of a shop.

Rows are streamed: memory holds one batch. Loading adds to the store's content. An interrupted load is safe to
repeat, because the same batch of the same file counts once. A file with different rows counts as a new file.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..checkout import EVENT_KIND, HISTORY_KINDS, MAX_NUMBER, MAX_TS, SLATE_KINDS
from ..table_files import NO_USER, CsvFormat, TableFile, check_files, find_table
from .arrow import ArrowStore
from .base import Store, UserHistory
from .table_batches import count_rows, table_batches

BATCH_USERS = 2_000  # of a store.arrow
# Clicks first: at the same instant they come before the purchase.
TABLE_COLUMNS = {
    "events": ("user_id", "item_id", "ts", "kind"),
    "orders": ("user_id", "item_id", "ts", "quantity", "price"),
}
EVENT_KINDS = (*SLATE_KINDS, *HISTORY_KINDS)  # of `events`
FEEDBACK_KINDS = ("click", "cart")  # of `events` that enter histories; purchases are the lines of `orders`

IDS = ("user_id", "item_id")


@dataclass(frozen=True)
class TableFormat:
    """The format of tables that differ from docs/reference/canonical_tables.md.

    Args:
        columns: `user_id`, or `orders.user_id` of one table → its name in the files.
        integers: ids that are whole numbers, however the files write them: `user_id`, `orders.user_id`.

    Raises ValueError for a column that no table has.
    """

    csv: CsvFormat = field(default_factory=CsvFormat)
    columns: Mapping[str, str] = field(default_factory=dict)
    integers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for given, names in ((self.columns, _column_names()), (self.integers, _column_names(IDS))):
            for name in given:
                if name not in names:
                    nearest = get_close_matches(name, names, n=1, cutoff=0.5) or sorted(names)
                    raise ValueError(f"{name}: no column that is loaded. Did you mean {', '.join(nearest)}?")

    def apply(self, table: TableFile, name: str) -> TableFile:
        """The table, with the file's column names for this format."""
        columns = {c: self.columns.get(f"{name}.{c}", self.columns.get(c, c)) for c in TABLE_COLUMNS[name]}
        integers = [c for c in IDS if {c, f"{name}.{c}"} & {*self.integers}]
        return replace(table, columns=columns, integers=tuple(integers))


def _column_names(columns: Collection[str] | None = None) -> list[str]:
    """The names of the loaded columns, each alone and with its table."""
    names = [(table, c) for table, own in TABLE_COLUMNS.items() for c in own if not columns or c in columns]
    return list(dict.fromkeys([c for _, c in names] + [f"{table}.{c}" for table, c in names]))


ProgressCallback = Callable[[int, int], None]  # events so far, and of how many (0 where it is not known)
UserHistories = Iterator[tuple[str, UserHistory]]


def bulk_load(
    store: Store, path: Path, progress: ProgressCallback, table_format: TableFormat | None = None
) -> int:
    """Append the events of `path` to the store. Returns the number of events.

    Args:
        path: an exported `store.arrow`, or a folder with the canonical tables `orders` (its lines are the
            purchases), `events` (its clicks and cart events) or both (serving/table_files.py). Returns (lines
            of negative quantity), orders of guests and further kinds of events enter no history.
        progress: called after every batch.
        table_format: format of the tables.

    Raises FileNotFoundError, ValueError (with the file and the row) for a row that is not an event, and the
    errors of `store.append_many`.
    """
    is_arrow = path.suffix == ".arrow"
    batches = _read_arrow_store(path) if is_arrow else _read_tables(path, table_format or TableFormat())
    n_events = 0
    for histories, n_rows in batches:
        users = list(histories)
        store.append_many(users)
        n_events += sum(len(history.item_id) for _, history in users)
        progress(n_events, n_rows)
    return n_events


def _read_arrow_store(file: Path) -> Iterator[tuple[UserHistories, int]]:
    users = ArrowStore.open(file).iter_users()
    while batch := list(islice(users, BATCH_USERS)):
        yield iter([(user_id, _drop_null_attributes(history)) for user_id, history in batch]), 0


def _drop_null_attributes(history: UserHistory) -> UserHistory:
    return replace(history, profile={k: value for k, value in history.profile.items() if value is not None})


def _read_tables(folder: Path, table_format: TableFormat) -> Iterator[tuple[UserHistories, int]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a store.arrow, or a folder with orders.parquet")
    found = {name: find_table(folder, name, table_format.csv) for name in TABLE_COLUMNS}
    tables = {name: table_format.apply(table, name) for name, table in found.items() if table is not None}
    if not tables:
        raise FileNotFoundError(f"{folder}: neither orders nor events are there, as .parquet or .csv")
    for table in tables.values():
        check_files(table)
    n_rows = sum(count_rows(table) for table in tables.values())
    for name, table in tables.items():
        for file, first_row, batch in table_batches(table, TABLE_COLUMNS[name]):
            yield _group_by_user(_event_columns(batch, file, first_row)), n_rows


def _event_columns(batch: pa.RecordBatch, file: Path, first_row: int) -> pa.Table:
    """The rows that enter histories, checked, with the types of UserHistory; `first_row` is for errors."""
    columns = {
        name: _cast(batch[name], name, expected, file)
        for name, expected in (("user_id", pa.string()), ("item_id", pa.string()), ("ts", pa.int64()))
    }
    is_guest = pc.is_in(
        pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(columns["user_id"], ""))), pa.array(NO_USER)
    )
    if "kind" in batch.schema.names:
        kind = _cast(batch["kind"], "kind", pa.string(), file)
        columns["kind"] = pc.index_in(kind, pa.array(HISTORY_KINDS))  # null for impressions
        columns["quantity"], columns["price"] = (pa.array(np.full(len(kind), x)) for x in (1.0, 0.0))
        is_history = pc.is_in(kind, pa.array(FEEDBACK_KINDS))
        is_valid_kind = pc.is_in(kind, pa.array(_valid_kinds(kind), pa.string()))
    else:
        columns["kind"] = pa.array(np.zeros(batch.num_rows, np.int64))
        columns["quantity"] = _cast(batch["quantity"], "quantity", pa.float64(), file)
        columns["price"] = _cast(batch["price"], "price", pa.float64(), file)
        is_valid_kind = pa.array(np.ones(batch.num_rows, bool))
        is_history = pc.fill_null(pc.greater(columns["quantity"], 0), True)  # a line below 0 is a return
    for name, is_valid in {"kind": is_valid_kind, **_validity(columns, is_guest)}.items():
        invalid = np.flatnonzero(~pc.fill_null(is_valid, False).to_numpy(zero_copy_only=False))
        if len(invalid):
            row = int(invalid[0])
            value = batch[name][row].as_py()
            raise ValueError(f"{file}: row {first_row + row}: {name} is {value!r}, which cannot be loaded")
    return pa.table(columns).filter(pc.and_(is_history, pc.invert(is_guest)))


def _valid_kinds(kinds: pa.Array) -> list[str]:
    """The kinds of events in a column, except misspelled kinds. Further kinds enter no history."""
    distinct = [kind for kind in pc.unique(kinds).to_pylist() if kind is not None]
    return [
        kind
        for kind in distinct
        if kind in EVENT_KINDS
        or (EVENT_KIND.fullmatch(kind) and not get_close_matches(kind.lower(), EVENT_KINDS, cutoff=0.8))
    ]


def _validity(columns: Mapping[str, pa.Array], is_guest: pa.Array) -> dict[str, pa.Array]:
    """Returns column → whether each row's value is valid; null for a null value.

    A row without a user belongs to a guest.
    """
    ts, quantity, price = columns["ts"], columns["quantity"], columns["price"]
    return {
        "user_id": pc.or_(is_guest, pc.is_valid(columns["user_id"])),
        "item_id": pc.greater(pc.utf8_length(columns["item_id"]), 0),
        "ts": pc.and_(pc.greater_equal(ts, 0), pc.less(ts, MAX_TS)),
        "quantity": pc.and_(pc.not_equal(quantity, 0), pc.less_equal(pc.abs(quantity), MAX_NUMBER)),
        "price": pc.and_(pc.greater_equal(price, 0), pc.less_equal(price, MAX_NUMBER)),
    }


def _cast(column: pa.Array, name: str, expected: pa.DataType, file: Path) -> pa.Array:
    actual = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    types = pa.types
    try:
        if expected == pa.int64() and (types.is_timestamp(actual) or types.is_date(actual)):
            # Unsafe, because a fraction of a second is cut off.
            return column.cast(pa.timestamp("s", getattr(actual, "tz", None)), safe=False).cast(expected)
        is_text = types.is_string(actual) or types.is_large_string(actual)
        is_number = types.is_floating(actual) or types.is_decimal(actual)
        is_castable = is_text if expected == pa.string() else is_number and expected == pa.float64()
        if types.is_integer(actual) or is_castable:
            return column.cast(expected)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: column {name}: {error}") from error
    raise ValueError(f"{file}: column {name} is {column.type}, expected {expected}. To do: cast it")


def _group_by_user(table: pa.Table) -> UserHistories:
    """Groups the rows by user. The rows of a user keep their order."""
    if not len(table):
        return
    table = table.take(pc.sort_indices(table, [("user_id", "ascending")])).combine_chunks()
    runs = pc.run_end_encode(table["user_id"].chunk(0))
    item_id = table["item_id"].to_pylist()
    dtypes = {"ts": np.int64, "kind": np.int64, "quantity": np.float32, "price": np.float32}
    columns: dict[str, Any] = {name: table[name].to_numpy().astype(dtype) for name, dtype in dtypes.items()}
    start = 0
    for user_id, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        rows = slice(start, end)
        yield (
            user_id,
            UserHistory(item_id[rows], **{name: column[rows] for name, column in columns.items()}),
        )
        start = end
