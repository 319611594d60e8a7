"""A shop's impression log as checkouts to replay, with their logged slates and rewards.

    orders, events ─ data/tables/attribution.py, data/examples/outcomes.py ─▶ labels as in training
                   ╰ data/examples/user_histories.py ─▶ histories, as an export writes them

A checkout counts once, with the first slate that was logged for it.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from data.errors import DataError
from data.examples import splits, user_histories
from data.examples.outcomes import attribute_to_checkouts, outcome_lists
from data.examples.writer import basket_lists
from data.feature_schema import FeatureSchema
from data.io import engine
from data.sources import tables
from data.tables import attribution, checks, contract, id_checks
from data.tables.contract import SLATE_KINDS
from data.tables.encoded_tables import EncodedTables, encode_tables
from exporting.bundle import write_store
from models.schema import SECONDS_PER_DAY
from serving import Checkout, Line, Store, open_store
from serving.pipeline.slate_policy import SLOTS

Array = np.ndarray
REWARDS = ("click", "purchase", "revenue")


class SlotOutcomes(NamedTuple):
    """Outcomes of items inside the checkout's horizon, by (order code, item code)."""

    clicked: dict[tuple[int, int], tuple[float, float, float]]  # REWARDS of clicked impressions
    revenue: dict[tuple[int, int], float]  # of order lines


class LoggedCheckouts(NamedTuple):
    """The log's n checkouts in order of time, with K = SLOTS slots.

    An empty slot has item "" and propensity 1.
    """

    checkouts: list[Checkout]
    user: Array  # [n] str
    item: Array  # [n, K] str
    propensity: Array  # [n, K]
    p_click: Array  # [n, K] logged p(click | examined), NaN where it is missing
    rewards: dict[str, Array]  # REWARDS → [n, K], 0 where the slate was held back
    slot_revenue: Array  # [n, K] order lines of the item inside the horizon, shown or not, clicked or not
    withhold: Array  # [n] probability with which an experiment holds the slate back
    is_withheld: Array  # [n] bool
    store: Store  # user histories with later events too: a checkout reads the events before it
    excluded: dict[str, int]  # reason → checkouts


def select_checkouts(logged: LoggedCheckouts, mask: Array) -> LoggedCheckouts:
    """The checkouts where `mask` [n] bool holds."""
    return logged._replace(
        checkouts=[checkout for checkout, is_kept in zip(logged.checkouts, mask, strict=True) if is_kept],
        rewards={name: reward[mask] for name, reward in logged.rewards.items()},
        **{
            name: getattr(logged, name)[mask]
            for name in ("user", "item", "propensity", "p_click", "slot_revenue", "withhold", "is_withheld")
        },
    )


def read_logged_checkouts(
    shop: Path, manifest: Mapping[str, Any], schema: FeatureSchema, logged_version: str | None = None
) -> LoggedCheckouts:
    """Return the log in `shop`, the folder of a shop's tables, for the bundle of `manifest` and `schema`.

    Labels count in the time windows of the bundle's training. Checkouts before the end of the bundle's
    training data are excluded. So are checkouts whose horizon passes the end of the log. The numbers of
    excluded checkouts are kept. With `logged_version`, only slates from this bundle version count.

    Raises DataError for tables that cannot be used, or if no checkout is left.
    """
    data = manifest["run"]["config"]["data"]
    horizon = str(data["horizon"])
    with tempfile.TemporaryDirectory() as folder, engine.connect({}, Path(folder)) as con:
        clean = _read_clean_tables(con, shop, data)
        encoded = encode_tables(con, clean)
        slates = engine.materialize(con, "slates", _first_slates(clean["events"], encoded, logged_version))
        horizons = splits.add_horizon_end(encoded, horizon).semi_join(slates, "order")
        immature = horizons.horizon_end.isnull() | (horizons.horizon_end > encoded.end)
        in_training = horizons.ts < _bundle_data_end(manifest)
        excluded = {
            "before the end of the bundle's own data": int(con.execute(in_training.sum().fill_null(0))),
            f"with a horizon ({horizon}) that passes the end of the log": int(
                con.execute((immature & ~in_training).sum().fill_null(0))
            ),
        }
        kept = engine.materialize(con, "kept", horizons.filter(~immature & ~in_training))
        if not con.execute(kept.count()):
            reasons = "; ".join(f"{count:,} {reason}" for reason, count in excluded.items())
            raise DataError(
                f"{shop}: no logged checkout is left: {reasons or 'none was logged'}. To do: use a log that "
                "begins after the bundle's data ends, and is longer than the horizon"
            )
        checkouts = _checkouts(con, encoded, kept)
        slots = con.to_pyarrow(slates.semi_join(kept, "order").order_by("order", "slot"))
        outcomes = _outcomes(con, encoded, kept)
        revenue = _line_revenue(con, encoded, kept, slates)
        history_store = _history_store(con, encoded, schema, Path(folder))
    return _build_logged_checkouts(checkouts, slots, SlotOutcomes(outcomes, revenue), history_store, excluded)


def _bundle_data_end(manifest: Mapping[str, Any]) -> int:
    return int(manifest["data"]["window"]["end"])


def _read_clean_tables(con: ibis.BaseBackend, shop: Path, data: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The checked canonical tables; `events` is attributed and has the columns of impression logs."""
    files = tables.table_files({"root": str(shop)})
    if "events" not in files:
        raise DataError(f"{shop}: there is no impression log (events): serve with --log {shop}/events")
    raw = tables.read_tables(con, {"root": str(shop)})
    conformed = {
        name: engine.materialize(con, f"canonical_{name}", contract.conform(t, name, files[name]))
        for name, t in raw.items()
    }
    if "propensity" not in raw["events"].columns:
        raise DataError(f"{files['events']}: column propensity is missing: off-policy estimates "
                        "need the probability of every logged item")  # fmt: skip
    if "request_id" in raw["events"].columns:
        days = splits.horizon_days(str(data["horizon"]))
        clicks = attribution.window_seconds(data.get("click_window", "1d"))
        conformed["events"], _ = attribution.attribute_feedback(
            con,
            conformed["events"],
            conformed["orders"],
            clicks,
            None if days is None else days * SECONDS_PER_DAY,
        )
    clean = checks.check_tables(con, conformed, files, "fail", "Correct the files.").tables
    for warning in id_checks.check_ids(con, clean, files):
        print(warning, file=sys.stderr)
    log_columns = {"p_click": "float64", "bundle_version": "string"}
    logged = raw["events"].select("_row", **{
        name: raw["events"][name].cast(kind) if name in raw["events"].columns else ibis.null(kind)
        for name, kind in log_columns.items()
    })  # fmt: skip
    clean["events"] = clean["events"].left_join(logged, "_row").drop("_row_right")
    return clean


def _first_slates(events: ir.Table, log: EncodedTables, logged_version: str | None) -> ir.Table:
    """The slots of the first slate of every checkout.

    Columns: `order, item, item_id, slot` (from 0), `propensity, p_click, withhold, is_withheld`.
    """
    t = events.filter(events.kind.isin(list(SLATE_KINDS)), events.propensity.notnull())
    if logged_version is not None:
        t = t.filter(t.bundle_version == logged_version)
    t = t.mutate(request=ibis.coalesce(t.request_id, t.order_id))
    t = t.join(log.checkouts.select("order", "order_id"), "order_id")
    t = t.join(log.items.select("item", "item_id"), "item_id")
    slates = t.group_by("order", "request").agg(slate_ts=t.ts.min())
    by_time = ibis.window(group_by="order", order_by=["slate_ts", "request"])
    first = slates.mutate(rank=ibis.row_number().over(by_time)).filter(ibis._["rank"] == 0)
    t = t.semi_join(first, ["order", "request"])
    slot = ibis.row_number().over(group_by="order", order_by=["position", t["_row"]])
    withhold, is_withheld = t.withhold.fill_null(0.0), t.kind == "ghost"
    columns = {"slot": slot, "withhold": withhold, "is_withheld": is_withheld}
    return t.select("order", "item", "item_id", "propensity", "p_click", **columns)


def _checkouts(con: ibis.BaseBackend, log: EncodedTables, kept: ir.Table) -> dict[int, Checkout]:
    """Return order code → the checkout as it was sent, in order of time."""
    t = kept.join(log.users.select("user", "user_id"), "user").join(basket_lists(log), "order")
    ids = dict(zip(*con.to_pyarrow(log.items.select("item", "item_id")).to_pydict().values(), strict=True))
    checkouts = {}
    for row in con.to_pyarrow(t.order_by("order")).to_pylist():
        basket = (row[f"basket_{name}"] for name in ("item", "quantity", "price"))
        checkouts[row["order"]] = Checkout(
            user_id=row["user_id"],
            basket=[Line(ids[item], quantity, price) for item, quantity, price in zip(*basket, strict=True)],
            ts=row["ts"],
            context={c: row[f"context_{c}"] for c in log.context_names if row[f"context_{c}"] is not None},
            order_id=row["order_id"],
        )
    return checkouts


def _outcomes(
    con: ibis.BaseBackend, log: EncodedTables, kept: ir.Table
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Return (order code, item code) → click, purchase and spend, of each clicked impression."""
    bounds = con.to_pyarrow(kept.agg(start=kept.ts.min(), end=kept.horizon_end.max())).to_pylist()[0]
    events = engine.materialize(con, "attributed", attribute_to_checkouts(log, kept))
    t = con.to_pyarrow(outcome_lists(log, kept, events, (bounds["start"], bounds["end"])))
    outcomes = {}
    for row in t.to_pylist():
        columns = (row[f"outcome_{c}"] for c in ("item", "impression", "click", "purchase", "value"))
        for item, impression, click, purchase, spent in zip(*columns, strict=True):
            if impression and click:  # a purchase without a click would have happened without the slot
                outcomes[row["order"], item] = (1.0, float(purchase), spent)
    return outcomes


def _line_revenue(
    con: ibis.BaseBackend, log: EncodedTables, kept: ir.Table, slates: ir.Table
) -> dict[tuple[int, int], float]:
    """Return (order code, item code) → spend on the item inside the horizon, for items of slates.

    The spend comes from order lines. Purchases that a shop reports as events are ignored, because withheld
    slates have no such reports.
    """
    lines = log.lines.select("user", "item", "spend", line_ts="ts")
    t = kept.select("order", "user", "ts", "horizon_end").join(lines, "user")
    t = t.filter(t.line_ts > t.ts, t.line_ts <= t.horizon_end).semi_join(slates, ["order", "item"])
    rows = con.to_pyarrow(t.group_by("order", "item").agg(revenue=t.spend.sum()))
    return {(row["order"], row["item"]): row["revenue"] for row in rows.to_pylist()}


def _history_store(con: ibis.BaseBackend, log: EncodedTables, schema: FeatureSchema, folder: Path) -> Store:
    """A store of the histories in the shop's tables, written by the same code as in an export."""
    schema = replace(schema, profile=[a for a in schema.profile if a.name in log.profile_names])
    user_histories.write_user_histories(con, log, schema, folder)
    write_store(folder, schema, folder / "store.arrow")
    return open_store(folder / "store.arrow")  # memory-mapped: it outlives its folder


def _build_logged_checkouts(
    checkouts: dict[int, Checkout],
    slots: pa.Table,
    outcomes: SlotOutcomes,
    store: Store,
    excluded: dict[str, int],
) -> LoggedCheckouts:
    row_of_order = {order: row for row, order in enumerate(checkouts)}
    if (longest := 1 + max(slots["slot"].to_pylist())) > SLOTS:
        raise DataError(f"the log has slates of {longest} items, but a bundle fills only {SLOTS} slots")
    shape = (len(checkouts), SLOTS)
    item, propensity, p_click = np.full(shape, "", object), np.ones(shape), np.full(shape, np.nan)
    rewards: dict[str, Array] = defaultdict(lambda: np.zeros(shape))
    slot_revenue, withhold = np.zeros(shape), np.zeros(len(checkouts))
    is_withheld = np.zeros(len(checkouts), bool)
    for slot in slots.to_pylist():
        cell = row_of_order[slot["order"]], slot["slot"]
        item[cell], propensity[cell] = slot["item_id"], slot["propensity"]
        p_click[cell] = np.nan if slot["p_click"] is None else slot["p_click"]
        withhold[cell[0]], is_withheld[cell[0]] = slot["withhold"], slot["is_withheld"]
        key = slot["order"], slot["item"]
        slot_revenue[cell] = outcomes.revenue.get(key, 0.0)
        values = outcomes.clicked.get(key, (0.0,) * len(REWARDS))
        for name, reward in zip(REWARDS, values, strict=True):
            rewards[name][cell] = reward
    return LoggedCheckouts(
        checkouts=list(checkouts.values()),
        user=np.array([checkout.user_id for checkout in checkouts.values()]),
        item=item,
        propensity=propensity,
        p_click=p_click,
        rewards=dict(rewards),
        slot_revenue=slot_revenue,
        withhold=withhold,
        is_withheld=is_withheld,
        store=store,
        excluded=excluded,
    )
