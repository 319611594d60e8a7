"""Tables of users for serving and evaluation: the latest events and the first purchases."""

from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from data import feature_schema
from data.examples.histories import history_events
from data.feature_schema import FeatureSchema
from data.io import lists
from data.tables.encoded_tables import EncodedTables
from models.constants import HISTORY_KINDS

HISTORY_LIST_TYPES = {
    "item_id": "string",
    "ts": "int64",
    "kind": "string",
    "quantity": "float32",
    "price": "float32",
}


def write_user_histories(
    con: ibis.BaseBackend, encoded: EncodedTables, schema: FeatureSchema, folder: Path
) -> None:
    """Write `user_histories.parquet` and `first_purchases.parquet`."""
    tables = {"user_histories": user_histories(encoded, schema), "first_purchases": first_purchases(encoded)}
    for name, table in tables.items():
        pq.write_table(con.to_pyarrow(table), folder / f"{name}.parquet", compression="zstd")


def user_histories(encoded: EncodedTables, schema: FeatureSchema) -> ir.Table:
    """The latest `max_history` raw events of every user after the last order, oldest first.

    The columns are `user_id`, the lists `item_id, ts, kind, quantity, price` (kind as a word), `profile`
    (codes, as in the examples) and `profile_values` (attributes as text in the schema's order, null if
    missing).
    """
    t = history_events(encoded)
    # As in a checkout's history: the events that became known latest, sorted by time.
    latest = [t.available_at.desc(), t.ts.desc(), t.seq.desc(), t.item.desc(), t.kind.desc()]
    t = t.mutate(rank=ibis.row_number().over(group_by="user", order_by=latest))
    t = t.filter(t["rank"] < schema.max_history).join(encoded.items.select("item", "item_id"), "item")
    t = t.mutate(kind_name=ibis.cases(*[(t.kind == k, name) for k, name in enumerate(HISTORY_KINDS)]))
    columns = {c: "kind_name" if c == "kind" else c for c in HISTORY_LIST_TYPES}
    histories = lists.collect_lists(t, "user", columns, ["ts", "seq", "item", "kind"])
    t = encoded.users.left_join(histories, "user").drop("user_right")
    values = [t[f"profile_{a.name}"].cast("string") for a in schema.profile]
    return t.order_by("user_id").select(
        "user_id",
        **{c: t[c].fill_null(ibis.literal([], type=f"array<{k}>")) for c, k in HISTORY_LIST_TYPES.items()},
        profile=feature_schema.attribute_codes(t, schema.profile, "profile_"),
        profile_values=ibis.array(values) if values else ibis.literal([], type="array<string>"),
    )


def first_purchases(encoded: EncodedTables) -> ir.Table:
    """The first purchase of every item by every user: `user_id, item, ts`."""
    t = encoded.lines.group_by("user", "item").agg(ts=encoded.lines.ts.min())
    t = t.join(encoded.users.select("user", "user_id"), "user")
    return t.order_by("user_id", "item").select("user_id", "item", "ts")
