"""Item updates: changes of the item list between two trainings, encoded by the last training's vocabularies.

    changes.parquet ─ read ─▶ updates ─ merge ─▶ all updates since training ─ apply ─▶ items.parquet

The merged updates are always applied to the items of the prepared folder, never to an earlier result. The
prepared folder has no descriptions, so the merged updates keep the new descriptions.

Updates may also hold the attributes and vectors that the last training read: texts of categorical attributes,
float64 of numeric ones, lists of float32.
"""

import difflib
import tempfile
from collections.abc import Collection
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import feature_schema
from data.errors import DataError
from data.feature_schema import Attribute, FeatureSchema
from data.io import engine
from data.tables import checks, contract, item_vectors
from data.tables.contract import CANONICAL_TYPES, ITEMS
from data.tables.reader import open_file, read_table
from data.tables.title_vectors import encode_titles
from serving.table_files import TableFile

# All columns but item_id may be null.
ITEM_UPDATE_SCHEMA = pa.schema(
    {c: pa.type_for_alias(CANONICAL_TYPES[spec.logical_type]) for c, spec in ITEMS.items()}
)
REMEDY = "Correct the file and give it again: no row of it was applied."


def item_update_schema(schema: FeatureSchema | None) -> pa.Schema:
    """ITEM_UPDATE_SCHEMA with the item attributes and vectors of `schema`."""
    fields = list(ITEM_UPDATE_SCHEMA)
    if schema is not None:
        types = {a.name: pa.float64() if a.values is None else pa.string() for a in schema.item_attributes}
        types |= {vector.name: item_vectors.VECTOR_TYPE for vector in schema.listed_vectors}
        fields += [pa.field(name, kind) for name, kind in types.items()]
    return pa.schema(fields)


def read_item_updates(path: str | Path, schema: FeatureSchema | None = None) -> pa.Table:
    """The updates of a .parquet or .csv file, in file order, with the columns of `item_update_schema`.

    The columns are those of the canonical table `items`, of which only `item_id` is required, and the
    attributes and vectors of `schema`. A null or absent value does not change the item.

    Raises DataError for a file that is missing, empty or unreadable, for columns that are unknown or of a
    wrong type, for vectors of another length than in `schema`, and for bad rows: an id that is null or
    repeated, a number that does not parse, is not finite or is out of range, a time that does not parse or is
    out of range.
    """
    file, update_schema = open_file(Path(path)), item_update_schema(schema)
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        raw = read_table(con, "items", file)
        vectors = _read_vectors(file, schema)
        _reject_unknown_columns([*raw.columns, *vectors.column_names], file, update_schema.names)
        raw = raw.drop(*[c for c in _null_columns(file) if c in raw.columns])
        conformed = contract.conform(raw, "items", file, required=["item_id"])
        conformed = engine.materialize(con, "item_updates", conformed)
        checked = checks.check_tables(
            con, {"items": conformed}, {"items": file}, "fail", REMEDY, drop_repeated=False
        )
        items = checked.tables["items"].order_by("_row")
        further = _update_attributes(con, items, schema, file)
        columns = con.to_pyarrow(items.select(*ITEM_UPDATE_SCHEMA.names, **further))
    for name in vectors.column_names:
        columns = columns.append_column(name, vectors[name])
    for field in update_schema:
        if field.name not in columns.column_names:
            columns = columns.append_column(field, pa.nulls(columns.num_rows, field.type))
    return columns.select(update_schema.names).cast(update_schema)


def _read_vectors(file: TableFile, schema: FeatureSchema | None) -> pa.Table:
    """The vector columns of the file, in file order.

    Raises DataError for vectors whose length differs from `schema`.
    """
    names = item_vectors.vector_column_names(file)
    dims = {vector.name: vector.dim for vector in schema.listed_vectors} if schema is not None else {}
    for column in item_vectors.check_vectors(file, names):
        trained_dim = dims.get(column.name, column.dim)
        if column.dim != trained_dim:
            raise DataError(
                f"{file}: column '{column.name}' has vectors of {column.dim} numbers, but the last training "
                f"had vectors of {trained_dim}: give vectors of the same model, or train again"
            )
    return item_vectors.read_vector_columns(file, names)


def _update_attributes(
    con: ibis.BaseBackend, items: ir.Table, schema: FeatureSchema | None, file: TableFile
) -> dict[str, ir.Value]:
    """Returns name → values of the attributes of `schema` that the conformed updates have.

    The types are those of `item_update_schema`. Raises DataError for a wrong type.
    """
    out: dict[str, ir.Value] = {}
    for attribute in schema.item_attributes if schema is not None else ():
        if attribute.name not in items.columns:
            continue
        value = items[attribute.name]
        if attribute.values is None and value.type().is_string():
            if con.execute(value.count()):
                raise DataError(f"{file}: column '{attribute.name}' is text, expected number")
            continue  # an empty column of CSV has no type
        if attribute.values is None:
            out[attribute.name] = feature_schema.finite_number(value)
        elif value.type().is_floating():  # whole numbers of a column with gaps: 17.0 is the value 17
            is_whole = (value == value.floor()).fill_null(False)
            out[attribute.name] = ibis.ifelse(
                is_whole, value.cast("int64").cast("string"), value.cast("string")
            )
        else:
            out[attribute.name] = value.cast("string")
    unread = [
        v.name for v in (schema.listed_vectors if schema is not None else ()) if v.name in items.columns
    ]
    for name in unread:
        if con.execute(items[name].count()):
            raise DataError(f"{file}: column '{name}' is {items[name].type()}, expected a list of numbers")
    return out


def _reject_unknown_columns(columns: Collection[str], file: TableFile, expected: Collection[str]) -> None:
    """Raise DataError for unknown columns.

    Most columns are optional, so a misspelled one would be ignored.
    """
    present = [c for c in columns if c != "_row"]
    absent = [c for c in expected if c not in present]
    lines = []
    for c in present:
        if c not in expected:
            similar = difflib.get_close_matches(c.strip().lower(), absent, n=1)
            remedy = f"rename it to '{similar[0]}'?" if similar else "remove it"
            lines.append(f"{file}: column '{c}' is unknown, expected some of {', '.join(expected)}; {remedy}")
    if lines:
        raise DataError("\n".join(lines))


def _null_columns(file: TableFile) -> list[str]:
    """Columns of Parquet files that hold only nulls. They have no type and count as absent."""
    if file.csv:
        return []
    return [f.name for f in pq.read_schema(file.files[0]) if pa.types.is_null(f.type) and f.name != "item_id"]


def merge_item_updates(before: pa.Table | None, after: pa.Table) -> pa.Table:
    """Merge the updates `before` (or None) with the later updates `after`: one row per item.

    In each column the later value is kept, but a null keeps the earlier value. So an update of the title
    keeps an earlier description. A column that one table lacks counts as null there (updates of an earlier
    release lack some). Items are in the order of their first update.
    """
    updates = after if before is None else pa.concat_tables([before, after], promote_options="default")
    row = pa.array(range(updates.num_rows), pa.int64())
    # The last row with a value in each column. Arrow's `last` skips nulls, but does not accept lists.
    values = [c for c in updates.column_names if c != "item_id"]
    rows = {c: pc.if_else(pc.is_valid(updates[c]), row, pa.scalar(None, pa.int64())) for c in values}
    last = pa.table({"item_id": updates["item_id"], **rows})
    # Threads would change the order of the rows.
    last = last.group_by("item_id", use_threads=False).aggregate([(c, "last") for c in values])
    columns = {c: updates[c].take(last[f"{c}_last"]) for c in values}
    return pa.table({c: columns.get(c, last["item_id"]) for c in updates.column_names}, updates.schema)


def apply_item_updates(
    items: pa.Table, updates: pa.Table, schema: FeatureSchema, tokens_per_item: int
) -> pa.Table:
    """Apply the merged updates to `items.parquet` of a prepared folder.

    Items keep their rows. New items follow, in the order of the updates.

    Codes, tokens and vectors follow `schema` and `tokens_per_item` of that folder. By default a new item has
    its id as title, is available and was never sold. An unavailable item stays unavailable until an update
    makes it available. This includes items that the shop's list lacked.

    The folder has tokens but no descriptions. So an update with a new title or a description replaces the
    tokens by those of the title and the updates' description. An update with the same title keeps the tokens.
    """
    updates = updates.combine_chunks()
    row = pc.index_in(updates["item_id"], value_set=items["item_id"].combine_chunks())  # null: a new item
    old = items.take(row)  # nulls for a new item

    def updated(column: str) -> pa.ChunkedArray:
        return pc.coalesce(updates[column], old[column])

    # An item whose title is its id has no title, so preparation makes no tokens of it.
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
    columns |= _attribute_columns(updates, old, schema)
    columns["content"] = item_vectors.vector_lists(_content(updates, old, schema, pa.table(columns)))
    patch = pa.table({f.name: columns[f.name].cast(f.type) for f in items.schema}, schema=items.schema)
    return _upsert_rows(items, patch, row)


def _attribute_columns(updates: pa.Table, old: pa.Table, schema: FeatureSchema) -> dict[str, pa.Array]:
    """The columns of the attributes of items after the updates.

    `old` are the items before the updates, nulls where an item is new.
    """
    n, attributes = updates.num_rows, schema.item_attributes
    codes = _list_matrix(old, "attribute_codes", len(attributes), np.int32)
    columns: dict[str, pa.Array] = {}
    for k, attribute in enumerate(attributes):
        raw = f"attribute_{attribute.name}"
        columns |= {raw: old[raw]} if raw in old.column_names else {}
        if attribute.name not in updates.column_names:
            continue
        value = updates[attribute.name].combine_chunks()
        is_given = pc.is_valid(value).to_numpy(zero_copy_only=False)
        codes[is_given, k] = _attribute_code(value, attribute)[is_given]
        if raw in columns:
            columns[raw] = pc.coalesce(value.cast(pa.float64()), old[raw])
    offsets = pa.array(np.arange(n + 1) * len(attributes), pa.int32())
    columns["attribute_codes"] = pa.ListArray.from_arrays(offsets, pa.array(codes.reshape(-1), pa.int32()))
    return columns


def _content(updates: pa.Table, old: pa.Table, schema: FeatureSchema, items: pa.Table) -> np.ndarray:
    """The vectors [n, E] of `items` after the updates.

    `old` are the items before the updates, nulls where an item is new. Raises DataError where titles have
    vectors, and the packages of their model are missing.
    """
    content, start = _list_matrix(old, "content", schema.content_dim, np.float32), 0
    for vector in schema.listed_vectors:
        if vector.name in updates.column_names:
            is_given = pc.fill_null(pc.greater(pc.list_value_length(updates[vector.name]), 0), False)
            is_given = is_given.to_numpy()
            unit = item_vectors.unit_vectors(updates.select([vector.name]), [vector])
            content[is_given, start : start + vector.dim] = unit[is_given]
        start += vector.dim
    text_given = [pc.is_valid(updates[name]).to_numpy() for name in ("title", "category", "brand")]
    is_stale = np.any(text_given, axis=0)
    if schema.title_dim and is_stale.any():
        content[is_stale, start:] = encode_titles(items.filter(pa.array(is_stale)), schema.title_dim)
    return content


def _attribute_code(values: pa.Array, attribute: Attribute) -> np.ndarray:
    """Returns the codes [n] of raw values, 0 for missing or unknown."""
    with tempfile.TemporaryDirectory() as scratch, engine.connect({}, Path(scratch)) as con:
        t = ibis.memtable(pa.table({"row": range(len(values)), attribute.name: values}))
        t = t.select("row", codes=feature_schema.attribute_codes(t, [attribute]))
        return con.to_pyarrow(t.order_by("row"))["codes"].combine_chunks().flatten().to_numpy()


def _list_matrix(table: pa.Table, name: str, width: int, dtype: type) -> np.ndarray:
    """Turns a column of lists of one length into [n, width]. A null and an absent column give zeros."""
    out = np.zeros((table.num_rows, width), dtype)
    if width and name in table.column_names:
        lists = table[name].combine_chunks()
        is_valid = pc.is_valid(lists).to_numpy(zero_copy_only=False)
        out[is_valid] = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return out


def _upsert_rows(items: pa.Table, patch: pa.Table, row: pa.Array) -> pa.Table:
    """Puts the rows of `patch` at the positions `row` of `items`. Rows without a position are appended."""
    row = row.fill_null(-1).to_numpy(zero_copy_only=False)
    is_new = row < 0
    take = np.arange(items.num_rows + is_new.sum())
    target = np.where(is_new, items.num_rows - 1 + is_new.cumsum(), row)
    take[target] = items.num_rows + np.arange(len(row))
    return pa.concat_tables([items, patch]).take(pa.array(take))
