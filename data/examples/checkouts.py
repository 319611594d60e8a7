"""Examples: one row per checkout, with what was known at that instant and what came of it.

    user's log, by the time it could be known     a  b  c | d  e      | f …
    checkout at |: history is the slice before it [a  b  c]
    outcomes: what was bought (ts, until]                   [d  e]

Every user's log is one sorted list; a checkout's history is a slice of it, found by a running count. So
the long lists are never grouped or sorted per checkout, only cut.
"""

from collections.abc import Iterator
from pathlib import Path

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import feature_schema
from data.examples.splits import DAY, SPLITS
from data.feature_schema import FeatureSchema
from data.io import engine, lists
from data.tables.coded_log import CART, CLICK, PURCHASE, EncodedTables

CHUNK_HISTORY_EVENTS = (
    2_000_000  # of histories per query: bounds memory to some 50 MB of lists, and their copies
)
MAX_CHUNKS = 150  # queries for a split: each reads the lists of all users again
ROW_GROUP = 1024
HISTORY_TYPES = {"item": "int32", "ts": "int64", "kind": "int8", "quantity": "float32", "price": "float32"}
BASKET_TYPES = {"item": "int32", "quantity": "float32", "price": "float32"}
OUTCOME_TYPES = {
    "item": "int32", "impression": "boolean", "click": "boolean", "purchase": "boolean", "value": "float32",
    "position": "int32",
}  # fmt: skip


def history_events(log: EncodedTables) -> ir.Table:
    """Everything that may enter a history: `user, available, seq, item, ts, kind, quantity, price`.

    Purchases, clicks and cart events. Purchase events are left to the order lines, impressions to labels.
    """
    lines = log.lines.select(
        "user",
        "available",
        "ts",
        "item",
        "quantity",
        "price",
        kind=ibis.literal(PURCHASE),
        seq=log.lines.order,
    )
    e = log.events.filter(log.events.kind.isin(["click", "cart"]))
    events = e.select(
        "user",
        "available",
        "ts",
        "item",
        quantity=ibis.literal(1.0),
        price=ibis.literal(0.0),
        kind=ibis.ifelse(e.kind == "click", CLICK, CART),
        seq=ibis.literal(-1),  # at the same instant a click comes before the purchase
    )
    types = {**HISTORY_TYPES, "seq": "int64"}
    return lines.cast(types).union(events.select(*lines.columns).cast(types))


def history_lists(log: EncodedTables) -> ir.Table:
    """Per user the lists `history_{item,ts,kind,quantity,price}`, in the order in which facts became known.

    Where facts are ingested late, `seq` too: a slice is then not in order of time before `cut` sorts it.
    """
    t = history_events(log)
    columns = [*HISTORY_TYPES, "seq"] if log.has_late_arrivals else [*HISTORY_TYPES]
    named = {f"history_{c}": c for c in columns}
    return lists.collect_lists(t, "user", named, ["available", "ts", "seq", "item", "kind"])


def slice_history(t: ir.Table, first: ir.Value, last: ir.Value, late: bool) -> dict[str, ir.Value]:
    """History columns: the slice [first, last) of the lists of `history_lists`, oldest first."""
    if not late:
        return {f"history_{c}": t[f"history_{c}"][first:last] for c in HISTORY_TYPES}
    # Structs compare field by field, so sorting them sorts by time.
    order = ["ts", "seq", "item", "kind", "quantity", "price"]
    slices = [t[f"history_{c}"][first:last] for c in order]
    facts = slices[0].zip(*slices[1:]).sort()
    return {f"history_{c}": lists.extract_field(facts, f"f{order.index(c) + 1}") for c in HISTORY_TYPES}


def count_prior_events(log: EncodedTables) -> ir.Table:
    """`order, n_history, n_before`: facts and orders of the user available strictly before each checkout."""
    facts = history_events(log)
    columns = {
        "user": "int32",
        "at": "int64",
        "rank": "int8",
        "order": "int64",
        "fact": "int8",
        "paid": "int8",
    }
    facts = facts.select("user", at="available", rank=1, order=-1, fact=1, paid=0).cast(columns)
    orders = log.checkouts.select("user", at="available", rank=1, order=-1, fact=0, paid=1).cast(columns)
    asks = log.checkouts.select("user", at="ts", rank=0, order="order", fact=0, paid=0).cast(columns)
    t = facts.union(orders).union(asks)
    # At one instant the question (rank 0) stands before the facts (rank 1): strictly before.
    window = ibis.window(group_by="user", order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(n_history=t.fact.sum().over(window), n_before=t.paid.sum().over(window))
    return t.filter(t["rank"] == 0).select("order", "n_history", "n_before")


def basket_lists(log: EncodedTables) -> ir.Table:
    """Per order the lists of its own lines, by item."""
    t = log.lines.mutate(**{c: log.lines[c].cast(k) for c, k in BASKET_TYPES.items()})
    return lists.collect_lists(t, "order", {f"basket_{c}": c for c in BASKET_TYPES}, ["item"])


def attribute_to_checkouts(log: EncodedTables, checkouts: ir.Table) -> ir.Table:
    """Impressions, clicks and purchase events of checkouts by `order, item`, with the foremost position.

    An event with an order_id belongs to that checkout if it lies in [ts, until]. An impression or click
    without one goes to the user's latest checkout strictly before it, if it lies in (ts, until]. A
    purchase event without one says nothing that the order lines do not.
    """
    e = log.events.filter(log.events.kind.isin(["impression", "click", "purchase"]))
    named = e.filter(e.order >= 0)
    named = named.join(checkouts.select("order", "until", asked="ts", buyer="user"), "order")
    named = named.filter(named.ts >= named.asked, named.ts <= named.until, named.user == named.buyer)
    loose = e.filter(e.order == -1, e.kind != "purchase")
    marks = checkouts.select("user", at="ts", rank=ibis.literal(1), order="order", until="until")
    fields = ["item", "kind", "value", "position"]
    marks = marks.mutate(**{c: ibis.null(loose[c].type()) for c in fields}).cast({"order": "int64"})
    marks = marks.mutate(latest=marks.order)
    asks = loose.select(
        "user",
        "item",
        "kind",
        "value",
        "position",
        at="ts",
        rank=ibis.literal(0),
        order="order",
        until=ibis.null("int64"),
        latest=ibis.null("int64"),
    )
    t = marks.union(asks.select(*marks.columns))
    # Order codes grow with time, so the running maximum is the latest checkout so far.
    window = ibis.window(group_by="user", order_by=[t["at"], t["rank"]], preceding=(None, 0))
    t = t.mutate(latest=t.latest.max().over(window))
    t = t.filter(t["rank"] == 0).select("latest", *fields, ts="at")
    loose = t.join(checkouts.select("order", "until"), t.latest == checkouts.order)
    loose = loose.filter(loose.ts <= loose.until)
    columns = ["order", *fields]
    t = named.select(*columns).union(loose.select(*columns))
    return t.group_by("order", "item").agg(
        impression=(t.kind == "impression").any(),
        click=(t.kind == "click").any(),
        purchase=(t.kind == "purchase").any(),
        value=ibis.ifelse(t.kind == "purchase", t.value, ibis.null("float64")).sum(),
        position=ibis.ifelse(
            (t.kind == "impression") & (t.position > 0), t.position, ibis.null("int64")
        ).min(),
    )


def outcome_lists(log: EncodedTables, chunk: ir.Table, events: ir.Table, bounds: tuple[int, int]) -> ir.Table:
    """Per checkout of `chunk` the lists `outcome_*`, by item; checkouts without outcomes are absent.

    `bounds` are the chunk's first ts and last until. What an order line says of the money spent goes
    before what an event says; a purchase event without a value counts the item's list price.
    """
    lines = log.lines.filter(log.lines.ts > bounds[0], log.lines.ts <= bounds[1])
    t = chunk.join(lines.select("user", "item", "spent", at="ts"), "user")
    t = t.filter(t["at"] > t.ts, t["at"] <= t.until)
    bought = t.group_by("order", "item").agg(spent=t.spent.sum())
    return _merge_outcomes(log, bought, events.semi_join(chunk, "order"))


def _merge_outcomes(log: EncodedTables, bought: ir.Table, events: ir.Table) -> ir.Table:
    no, none = ibis.literal(False), ibis.null("float64")
    a = bought.select(
        "order",
        "item",
        "spent",
        said=none,
        impression=no,
        click=no,
        event_purchase=no,
        position=ibis.null("int64"),
    )
    b = events.select(
        "order",
        "item",
        "impression",
        "click",
        "position",
        spent=none,
        said="value",
        event_purchase="purchase",
    )
    t = a.union(b.select(*a.columns)).group_by("order", "item")
    t = t.agg(
        spent=ibis._.spent.max(),
        said=ibis._.said.max(),
        impression=ibis._.impression.any(),
        click=ibis._.click.any(),
        event_purchase=ibis._.event_purchase.any(),
        position=ibis._.position.max().fill_null(0),
    )
    t = t.left_join(log.items.select("item", "price"), "item").drop("item_right")
    purchase = t.spent.notnull() | t.event_purchase
    said = ibis.coalesce(t.said.nullif(0.0), t.price, 0.0)
    value = ibis.ifelse(purchase, ibis.coalesce(t.spent, said), 0.0)
    # Where it is known what was shown, what was bought by other ways was not clicked.
    implies = t.event_purchase if log.impressions_logged else purchase
    t = t.mutate(purchase=purchase, value=value, click=(t.click | implies) if log.clicks_logged else no)
    t = t.mutate(**{c: t[c].cast(k) for c, k in OUTCOME_TYPES.items()})
    return lists.collect_lists(t, "order", {f"outcome_{c}": c for c in OUTCOME_TYPES}, ["item"])


def example_rows(
    chunk: ir.Table, history: ir.Table, basket: ir.Table, outcome: ir.Table, schema: FeatureSchema, late: bool
) -> ir.Table:
    """The example rows of a chunk, with `order` in front and in no order yet."""
    t = chunk.left_join(basket, "order").drop("order_right").left_join(outcome, "order").drop("order_right")
    t = t.left_join(history, "user").drop("user_right")  # the widest last: nothing has to copy it again
    last = t.n_history.cast("int64")
    first = ibis.greatest(last - schema.max_history, 0)
    out: dict[str, ir.Value] = {}
    for name, value in {
        **slice_history(t, first, last, late),
        **{f"basket_{c}": t[f"basket_{c}"] for c in BASKET_TYPES},
        "context": feature_schema.attribute_codes(t, schema.context, "context_"),
        "profile": t.coded,
        **{f"outcome_{c}": t[f"outcome_{c}"] for c in OUTCOME_TYPES},
    }.items():
        group, column = name.split("_", 1) if "_" in name else ("", name)
        kind = {"history": HISTORY_TYPES, "basket": BASKET_TYPES, "outcome": OUTCOME_TYPES}.get(
            group, {}
        ).get(column, "int32")
        out[name] = value.fill_null(ibis.literal([], type=f"array<{kind}>"))
    return t.select("order", "order_id", "user_id", "ts", "snapshot", "n_before", **out)


def write_examples(
    con: ibis.BaseBackend,
    log: EncodedTables,
    assigned: ir.Table,
    schema: FeatureSchema,
    every: int,
    folder: Path,
) -> dict[str, dict[str, int]]:
    """Writes `examples/{train,validation,test}.parquet`.

    Gives per split how many checkouts led to a `purchase` and how many have `impressions`.

    `assigned` has `order, order_id, user, ts, until, split` and the context columns; `every` is the
    distance of snapshots in days.
    """
    people = log.users.select(
        "user", "user_id", coded=feature_schema.attribute_codes(log.users, schema.profile, "profile_")
    )
    people = engine.materialize(con, "people", people)
    t = assigned.filter(assigned.split.isin(SPLITS))
    t = t.join(count_prior_events(log), "order").join(people, "user")
    asked = engine.materialize(con, "asked", t.mutate(snapshot=(t.ts - log.start) // (every * DAY)))
    history = engine.materialize(con, "history_lists", history_lists(log))
    basket = engine.materialize(con, "basket_lists", basket_lists(log))
    events = engine.materialize(con, "attributed", attribute_to_checkouts(log, assigned))
    (folder / "examples").mkdir()
    bought, shown = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        path, writer = folder / "examples" / f"{split}.parquet", None
        for chunk, bounds in _chunks(con, asked.filter(asked.split == split), schema.max_history):
            outcome = outcome_lists(log, chunk, events, bounds)
            table = con.to_pyarrow(
                example_rows(chunk, history, basket, outcome, schema, log.has_late_arrivals)
            )
            # Arrow puts wide rows in order several times faster than the engine sorts them.
            table = table.take(pc.sort_indices(table["order"])).drop_columns("order").combine_chunks()
            bought[split] += _count_rows_with_any(table, "outcome_purchase")
            shown[split] += _count_rows_with_any(table, "outcome_impression")
            writer = writer or pq.ParquetWriter(
                path, table.schema, compression="zstd", write_page_checksum=True
            )
            writer.write_table(table, row_group_size=ROW_GROUP)
        if writer is not None:
            writer.close()
    return {"purchase": bought, "impressions": shown}


def _chunks(
    con: ibis.BaseBackend, asked: ir.Table, longest: int
) -> Iterator[tuple[ir.Table, tuple[int, int]]]:
    """Consecutive checkouts with FACTS facts of history together or more, the first ts and the last until.

    Every chunk reads all users' lists, so there should be few of them.
    """
    t = con.to_pyarrow(asked.select("order", "ts", "until", "n_history").order_by("order"))
    facts = np.minimum(t["n_history"].to_numpy(), longest) + 64  # what a checkout without a past costs
    most = max(CHUNK_HISTORY_EVENTS, int(facts.sum()) // MAX_CHUNKS)
    part = (np.cumsum(facts) - facts) // most  # the chunk of each
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], len(part)), strict=True):
        rows = t.slice(start, stop - start)
        first, last = rows["order"][0].as_py(), rows["order"][-1].as_py()
        bounds = (rows["ts"][0].as_py(), pc.max(rows["until"]).as_py())
        yield asked.filter(asked.order.between(first, last)), bounds


def _count_rows_with_any(table: pa.Table, flags: str) -> int:
    """Number of rows with at least one true value in the list column `flags`."""
    lists = table[flags].combine_chunks()
    return len(pc.unique(pc.list_parent_indices(lists).filter(lists.flatten())))
