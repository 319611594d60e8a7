"""What a shop changes of its items between two trainings, read by the vocabularies of the last one.

    changes.parquet ─ read ─▶ changes ─ merged ─▶ ledger ─ changed_items ─▶ items.parquet with the changes

The ledger holds every change since the training. It is always laid over the items of the prepared folder, and
never over a result of its own: the folder has no descriptions, so those must stay in the ledger.
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

# Of a change and of the ledger; all but item_id may be null.
ITEM_UPDATE_SCHEMA = pa.schema(
    {c: pa.type_for_alias(CANONICAL_TYPES[spec.logical_type]) for c, spec in ITEMS.items()}
)
REMEDY = "Correct the file and give it again; nothing of it was taken."


def read_item_updates(path: str | Path) -> pa.Table:
    """The changed items of a .parquet or .csv file, in file order, with the columns of `SCHEMA`.

    The columns are those of the canonical table `items`, of which only `item_id` is required; a value that
    is null or absent is as it was. Raises DataError for a file that is missing, empty or unreadable, for
    columns that are unknown or of a wrong type, and for bad rows: an id that is null or given twice, a
    number that is none, not finite or out of range, a time that is none or far off.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"{path}: neither .parquet nor .csv; write the changed items as one of the two")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the file that holds the changed items")
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        raw = read_table(con, "items", path)
        _reject_unknown(raw, path)
        raw = raw.drop(*_null_columns(path))
        conformed = engine.materialize(
            con, "changes", contract.conform(raw, "items", str(path), required=["item_id"])
        )
        checked = checks.check_tables(con, {"items": conformed}, {"items": str(path)}, "fail", REMEDY)
        items = checked.tables["items"].order_by("_row").select(*ITEM_UPDATE_SCHEMA.names)
        return con.to_pyarrow(items).cast(ITEM_UPDATE_SCHEMA)


def _reject_unknown(raw: ir.Table, path: Path) -> None:
    """Where nearly every column may be absent, a misspelled one would pass in silence."""
    found = [c for c in raw.columns if c != "_row"]
    lines = []
    for c in found:
        if c not in ITEMS:
            near = difflib.get_close_matches(c.strip().lower(), [k for k in ITEMS if k not in found], n=1)
            remedy = f"rename it to '{near[0]}'?" if near else "remove it"
            lines.append(f"{path}: column '{c}' is unknown, expected some of {', '.join(ITEMS)}; {remedy}")
    if lines:
        raise DataError("\n".join(lines))


def _null_columns(path: Path) -> list[str]:
    """Columns that hold only nulls and so have no type in Parquet: they say as little as absent ones."""
    if path.suffix != ".parquet":
        return []
    return [f.name for f in pq.read_schema(path) if pa.types.is_null(f.type) and f.name != "item_id"]


def merge_item_updates(before: pa.Table | None, after: pa.Table) -> pa.Table:
    """The ledger `before` (None: nothing was changed yet) with the changes `after`: a row per item.

    Column by column, the later value wins and a null leaves the earlier one: a new title keeps the
    description that was given before. Items stand in the order in which they were first given.
    """
    both = after if before is None else pa.concat_tables([before, after])
    # Threads would take the rows in any order. `last` skips nulls.
    values = [(c, "last") for c in both.column_names if c != "item_id"]
    found = both.group_by("item_id", use_threads=False).aggregate(values)
    return found.rename_columns([c.removesuffix("_last") for c in found.column_names]).select(
        ITEM_UPDATE_SCHEMA.names
    )


def apply_item_updates(
    items: pa.Table, updates: pa.Table, schema: FeatureSchema, tokens_per_item: int
) -> pa.Table:
    """`items.parquet` of a prepared folder with the ledger laid over it: known items in their rows, new ones
    behind in the order of the ledger.

    Codes and tokens follow `schema` and `tokens_per_item` of that folder (`features.encode`): what its
    vocabularies lack is unknown. A new item has its id for a title, is available and was never sold, unless
    the ledger says otherwise. What was unavailable stays so until the ledger says that it is not, also where
    the shop's list did not name it before.

    The folder holds tokens but no descriptions. So a new title or any description makes the tokens anew,
    from the ledger's description alone; the title that is there already changes none.
    """
    updates = updates.combine_chunks()
    row = pc.index_in(updates["item_id"], value_set=items["item_id"].combine_chunks())  # null: a new item
    old = items.take(row)  # of nulls where the item is new

    def given(column: str) -> pa.ChunkedArray:
        return pc.coalesce(updates[column], old[column])

    # A title that is the id stands for none: preparation makes no tokens of it.
    named = pc.if_else(pc.equal(old["title"], old["item_id"]), pa.scalar(None, pa.string()), old["title"])
    facts = {
        "item": pa.array(range(updates.num_rows), pa.int64()),
        "title": pc.coalesce(updates["title"], named),
        "description": updates["description"],
        "category": given("category"),
        "brand": given("brand"),
    }
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        encoded = feature_schema.encode_items(con, ibis.memtable(pa.table(facts)), schema, tokens_per_item)
        new = con.to_pyarrow(encoded.order_by("item"))

    retitled = pc.fill_null(pc.not_equal(updates["title"], old["title"]), False)
    kept = pc.and_(pc.is_valid(row), pc.invert(pc.or_(retitled, pc.is_valid(updates["description"]))))
    columns = {c: new[c] for c in ("category_codes", "leaf", "brand_code")}
    columns |= {c: pc.if_else(kept, old[c], new[c].cast(old[c].type)) for c in ("tokens", "token_weights")}
    columns |= {c: given(c) for c in ("category", "brand", "price", "margin", "created_at")}
    columns |= {
        "item_id": updates["item_id"],
        "title": pc.coalesce(given("title"), updates["item_id"]),
        "available": pc.coalesce(given("available"), True),
        "first_sold": pc.fill_null(old["first_sold"], 0),
    }
    patch = pa.table({f.name: columns[f.name].cast(f.type) for f in items.schema}, schema=items.schema)
    return _upsert_rows(items, patch, row)


def _upsert_rows(items: pa.Table, patch: pa.Table, row: pa.Array) -> pa.Table:
    """The rows of `patch` at `row` of `items`, and where that is null behind them."""
    row = row.fill_null(-1).to_numpy(zero_copy_only=False)
    new = row < 0
    take = np.arange(items.num_rows + new.sum())
    at = np.where(new, items.num_rows - 1 + new.cumsum(), row)
    take[at] = items.num_rows + np.arange(len(row))
    return pa.concat_tables([items, patch]).take(pa.array(take))
