"""Item updates: changes of the item list between two trainings, encoded by the vocabularies of the last one.

    changes.parquet ─ read ─▶ updates ─ merge ─▶ all updates since training ─ apply ─▶ items.parquet

The merged updates are always applied to the items of the prepared folder, never to an earlier result: the
folder has no descriptions, so the updates must keep theirs.
"""

import difflib
import tempfile
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import feature_schema
from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.io import engine
from data.sources.tables import read_table
from data.tables import checks, contract
from data.tables.contract import CANONICAL_TYPES, ITEMS

# All columns but item_id may be null.
ITEM_UPDATE_SCHEMA = pa.schema(
    {c: pa.type_for_alias(CANONICAL_TYPES[spec.logical_type]) for c, spec in ITEMS.items()}
)
REMEDY = "Correct the file and give it again: no row of it was applied."


def read_item_updates(path: str | Path) -> pa.Table:
    """The updates of a .parquet or .csv file, in file order, with the columns of ITEM_UPDATE_SCHEMA.

    The columns are those of the canonical table `items`, of which only `item_id` is required. A null or
    absent value leaves the item as it is.

    Raises DataError for a file that is missing, empty or unreadable, for columns that are unknown or of a
    wrong type, and for bad rows: an id that is null or repeated, a number that does not parse, is not finite
    or is out of range, a time that does not parse or is out of range.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path}: neither .parquet nor .csv; write the changed items as one of the two")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the file that holds the changed items")
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        raw = read_table(con, "items", path)
        _reject_unknown_columns(raw, path)
        raw = raw.drop(*_null_columns(path))
        conformed = engine.materialize(
            con, "item_updates", contract.conform(raw, "items", str(path), required=["item_id"])
        )
        checked = checks.check_tables(con, {"items": conformed}, {"items": str(path)}, "fail", REMEDY)
        items = checked.tables["items"].order_by("_row").select(*ITEM_UPDATE_SCHEMA.names)
        return con.to_pyarrow(items).cast(ITEM_UPDATE_SCHEMA)


def _reject_unknown_columns(raw: ir.Table, path: Path) -> None:
    """Raise DataError for unknown columns: most are optional, so a misspelled one would be ignored."""
    present = [c for c in raw.columns if c != "_row"]
    absent = [c for c in ITEMS if c not in present]
    lines = []
    for c in present:
        if c not in ITEMS:
            similar = difflib.get_close_matches(c.strip().lower(), absent, n=1)
            remedy = f"rename it to '{similar[0]}'?" if similar else "remove it"
            lines.append(f"{path}: column '{c}' is unknown, expected some of {', '.join(ITEMS)}; {remedy}")
    if lines:
        raise DataError("\n".join(lines))


def _null_columns(path: Path) -> list[str]:
    """Columns of a Parquet file that hold only nulls: they have no type, and mean the same as absent ones."""
    if path.suffix != ".parquet":
        return []
    return [f.name for f in pq.read_schema(path) if pa.types.is_null(f.type) and f.name != "item_id"]


def merge_item_updates(before: pa.Table | None, after: pa.Table) -> pa.Table:
    """The updates `before` (None: there are none) merged with the later ones `after`: a row per item.

    Column by column, the later value wins and a null keeps the earlier one: a new title keeps an earlier
    description. Items are in the order of their first update.
    """
    updates = after if before is None else pa.concat_tables([before, after])
    # Threads would change the order of the rows. `last` skips nulls.
    values = [(c, "last") for c in updates.column_names if c != "item_id"]
    merged = updates.group_by("item_id", use_threads=False).aggregate(values)
    merged = merged.rename_columns([c.removesuffix("_last") for c in merged.column_names])
    return merged.select(ITEM_UPDATE_SCHEMA.names)


def apply_item_updates(
    items: pa.Table, updates: pa.Table, schema: FeatureSchema, tokens_per_item: int
) -> pa.Table:
    """`items.parquet` of a prepared folder with the merged updates: items keep their rows, new ones follow in
    the order of the updates.

    Codes and tokens follow `schema` and `tokens_per_item` of that folder (`feature_schema.encode_items`). A
    new item by default has its id as title, is available and was never sold. An unavailable item stays so
    until an update makes it available, also where the shop's list lacked it.

    The folder has tokens but no descriptions. So a new title, or any description, replaces the tokens by
    those of the title and the updates' description; an update with the same title keeps them.
    """
    updates = updates.combine_chunks()
    row = pc.index_in(updates["item_id"], value_set=items["item_id"].combine_chunks())  # null: a new item
    old = items.take(row)  # of nulls where the item is new

    def updated(column: str) -> pa.ChunkedArray:
        return pc.coalesce(updates[column], old[column])

    # A title that is the id means that there is none: preparation makes no tokens of it.
    is_id = pc.equal(old["title"], old["item_id"])
    old_title = pc.if_else(is_id, pa.scalar(None, pa.string()), old["title"])
    facts = {
        "item": pa.array(range(updates.num_rows), pa.int64()),
        "title": pc.coalesce(updates["title"], old_title),
        "description": updates["description"],
        "category": updated("category"),
        "brand": updated("brand"),
    }
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        encoded = feature_schema.encode_items(con, ibis.memtable(pa.table(facts)), schema, tokens_per_item)
        new = con.to_pyarrow(encoded.order_by("item"))

    retitled = pc.fill_null(pc.not_equal(updates["title"], old["title"]), False)
    text_changed = pc.or_(retitled, pc.is_valid(updates["description"]))
    keeps_tokens = pc.and_(pc.is_valid(row), pc.invert(text_changed))
    columns = {c: new[c] for c in ("category_codes", "leaf", "brand_code")}
    for c in ("tokens", "token_weights"):
        columns[c] = pc.if_else(keeps_tokens, old[c], new[c].cast(old[c].type))
    columns |= {c: updated(c) for c in ("category", "brand", "price", "margin", "created_at")}
    columns |= {
        "item_id": updates["item_id"],
        "title": pc.coalesce(updated("title"), updates["item_id"]),
        "available": pc.coalesce(updated("available"), True),
        "first_sold": pc.fill_null(old["first_sold"], 0),
    }
    patch = pa.table({f.name: columns[f.name].cast(f.type) for f in items.schema}, schema=items.schema)
    return _upsert_rows(items, patch, row)


def _upsert_rows(items: pa.Table, patch: pa.Table, row: pa.Array) -> pa.Table:
    """`items` with the rows of `patch` at `row`, or appended where that is null."""
    row = row.fill_null(-1).to_numpy(zero_copy_only=False)
    is_new = row < 0
    take = np.arange(items.num_rows + is_new.sum())
    target = np.where(is_new, items.num_rows - 1 + is_new.cumsum(), row)
    take[target] = items.num_rows + np.arange(len(row))
    return pa.concat_tables([items, patch]).take(pa.array(take))
