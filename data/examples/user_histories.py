"""What serving and evaluation need of the users, beside the examples."""

from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow.parquet as pq

from data import feature_schema
from data.examples.checkouts import history_events
from data.feature_schema import FeatureSchema
from data.io import lists
from data.tables.coded_log import EncodedTables
from models.schema import HISTORY_KINDS

HISTORY_LIST_TYPES = {
    "item_id": "string",
    "ts": "int64",
    "kind": "string",
    "quantity": "float32",
    "price": "float32",
}


def write_user_histories(
    con: ibis.BaseBackend, log: EncodedTables, schema: FeatureSchema, folder: Path
) -> None:
    """Writes `store.parquet` and `first_bought.parquet`."""
    for name, table in (("store", user_histories(log, schema)), ("first_bought", first_purchases(log))):
        pq.write_table(con.to_pyarrow(table), folder / f"{name}.parquet", compression="zstd")


def user_histories(log: EncodedTables, schema: FeatureSchema) -> ir.Table:
    """Every user's latest `max_history` facts at the end of the log, raw, oldest first.

    `user_id`; the lists `item_id, ts, kind, quantity, price`, kind in words; `profile` (codes, as in the
    examples) and `profile_values` (the attributes as text in the schema's order, null where missing).
    """
    t = history_events(log)
    # The same choice as a checkout's history: the latest to become known, in order of time.
    latest = [t.available.desc(), t.ts.desc(), t.seq.desc(), t.item.desc(), t.kind.desc()]
    t = t.mutate(age=ibis.row_number().over(group_by="user", order_by=latest))
    t = t.filter(t.age < schema.max_history).join(log.items.select("item", "item_id"), "item")
    words = ibis.cases(*[(t.kind == k, word) for k, word in enumerate(HISTORY_KINDS)])
    t = t.mutate(word=words)
    columns = {c: "word" if c == "kind" else c for c in HISTORY_LIST_TYPES}
    facts = lists.collect_lists(t, "user", columns, ["ts", "seq", "item", "kind"])
    t = log.users.left_join(facts, "user").drop("user_right")
    values = [t[f"profile_{a.name}"].cast("string") for a in schema.profile]
    return t.order_by("user_id").select(
        "user_id",
        **{c: t[c].fill_null(ibis.literal([], type=f"array<{k}>")) for c, k in HISTORY_LIST_TYPES.items()},
        profile=feature_schema.attribute_codes(t, schema.profile, "profile_"),
        profile_values=ibis.array(values) if values else ibis.literal([], type="array<string>"),
    )


def first_purchases(log: EncodedTables) -> ir.Table:
    """`user_id, item, ts`: the first purchase of every user and item over the whole log."""
    t = log.lines.group_by("user", "item").agg(ts=log.lines.ts.min())
    t = t.join(log.users.select("user", "user_id"), "user")
    return t.order_by("user_id", "item").select("user_id", "item", "ts")
