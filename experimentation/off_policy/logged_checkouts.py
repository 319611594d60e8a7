"""A shop's impression log as checkouts that can be asked again, with what was shown and what came of it.

    orders, events ─ data/tables/attribution.py, data/examples/outcomes.py ─▶ labels as in training
                   ╰ data/examples/user_histories.py ─▶ histories, as an export writes them

A checkout counts once, by the first slate that was logged for it.
"""

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
from data.examples import splits
from data.examples import user_histories as store
from data.examples.outcomes import attribute_to_checkouts, outcome_lists
from data.examples.writer import basket_lists
from data.feature_schema import FeatureSchema
from data.io import engine
from data.sources import tables as source
from data.tables import attribution, checks, contract
from data.tables.encoded_tables import EncodedTables, encode_tables
from exporting.bundle import write_store
from models.schema import SECONDS_PER_DAY
from serving import Checkout, Line, Store, open_store
from serving.pipeline.slate_policy import SLOTS

Array = np.ndarray
REWARDS = ("click", "purchase", "revenue")
UNKNOWN = np.nan


class LoggedCheckouts(NamedTuple):
    """n checkouts by time, with K = SLOTS slots; one that stayed empty has item "" and propensity 1."""

    checkouts: list[Checkout]
    user: Array  # [n] str
    item: Array  # [n, K] str
    propensity: Array  # [n, K]
    p_click: Array  # [n, K] the logged p(click | seen), NaN where there is none
    rewards: dict[str, Array]  # of REWARDS: [n, K]
    store: Store  # what is known of the users, later events too: a checkout reads those before it
    excluded: dict[str, int]  # why → checkouts


def read_logged_checkouts(
    shop: Path, manifest: Mapping[str, Any], schema: FeatureSchema, champion: str | None = None
) -> LoggedCheckouts:
    """The log in `shop`, the folder of a shop's tables, for the bundle of this `manifest` and `schema`.

    Labels count in the windows that the bundle was trained with. Left out, and counted, are checkouts inside
    the time that the bundle learned from, and those whose horizon the log does not reach.

    Args:
        champion: only slates that this version answered.

    Raises DataError for tables that cannot be used, and where nothing is left.
    """
    data = manifest["run"]["config"]["data"]
    horizon = str(data["horizon"])
    with tempfile.TemporaryDirectory() as folder, engine.connect({}, Path(folder)) as con:
        clean = _clean(con, shop, data)
        coded = encode_tables(con, clean)
        shown = engine.materialize(con, "shown", _first_slates(clean["events"], coded, champion))
        until = splits.add_horizon_end(coded, horizon).semi_join(shown, "order")
        late, early = until.horizon_end.isnull() | (until.horizon_end > coded.end), until.ts < _bundle_data_end(manifest)
        left_out = {
            "before the end of the bundle's own data": int(con.execute(early.sum().fill_null(0))),
            f"with a horizon ({horizon}) that the log does not reach": int(
                con.execute((late & ~early).sum().fill_null(0))
            ),
        }
        asked = engine.materialize(con, "asked", until.filter(~late & ~early))
        if not con.execute(asked.count()):
            why = "; ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "none was logged"
            raise DataError(
                f"{shop}: no logged checkout is left to judge by: {why}. To do: judge by a log that begins "
                "after the bundle's data ends, and is longer than the horizon"
            )
        checkouts = _checkouts(con, coded, asked)
        slots = con.to_pyarrow(shown.semi_join(asked, "order").order_by("order", "slot"))
        won = _outcomes(con, coded, asked)
        facts = _history_store(con, coded, schema, Path(folder))
    return _build_logged_checkouts(checkouts, slots, won, facts, left_out)


def _bundle_data_end(manifest: Mapping[str, Any]) -> int:
    return int(manifest["data"]["window"]["end"])


def _clean(con: ibis.BaseBackend, shop: Path, data: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The canonical tables, checked; `events` attributed, and with what else an impression log says."""
    files = source.table_files({"root": str(shop)})
    if "events" not in files:
        raise DataError(f"{shop}: there is no impression log (events): serve with --log {shop}/events")
    names = {name: str(path) for name, path in files.items()}
    raw = source.read_tables(con, {"root": str(shop)})
    conformed = {
        name: engine.materialize(con, f"canonical_{name}", contract.conform(t, name, names[name]))
        for name, t in raw.items()
    }
    if "propensity" not in raw["events"].columns:
        raise DataError(f"{names['events']}: no column propensity: without the chances of what was shown a "
                        "log says nothing of another policy")  # fmt: skip
    if "request_id" in raw["events"].columns:
        days = splits.horizon_days(str(data["horizon"]))
        clicks = attribution.window_seconds(data.get("click_window", "1d"))
        conformed["events"], _ = attribution.attribute_feedback(
            con, conformed["events"], conformed["orders"], clicks, None if days is None else days * SECONDS_PER_DAY
        )
    clean = checks.check_tables(con, conformed, names, "fail", "Correct the files.").tables
    also = {"p_click": "float64", "bundle_version": "string"}
    known = raw["events"].select("_row", **{
        name: raw["events"][name].cast(kind) if name in raw["events"].columns else ibis.null(kind)
        for name, kind in also.items()
    })  # fmt: skip
    clean["events"] = clean["events"].left_join(known, "_row").drop("_row_right")
    return clean


def _first_slates(events: ir.Table, log: EncodedTables, champion: str | None) -> ir.Table:
    """`order, item, slot (0 first), propensity, p_click` of the first slate of every checkout."""
    t = events.filter(events.kind == "impression", events.propensity.notnull())
    if champion is not None:
        t = t.filter(t.bundle_version == champion)
    t = t.mutate(request=ibis.coalesce(t.request_id, t.order_id))
    t = t.join(log.checkouts.select("order", "order_id"), "order_id")
    t = t.join(log.items.select("item", "item_id"), "item_id")
    starts = t.group_by("order", "request").agg(since=t.ts.min())
    by_time = ibis.window(group_by="order", order_by=["since", "request"])
    starts = starts.mutate(again=ibis.row_number().over(by_time)).filter(ibis._.again == 0)
    t = t.semi_join(starts, ["order", "request"])
    slot = ibis.row_number().over(group_by="order", order_by=["position", t["_row"]])
    return t.select("order", "item", "item_id", "propensity", "p_click", slot=slot)


def _checkouts(con: ibis.BaseBackend, log: EncodedTables, asked: ir.Table) -> dict[int, Checkout]:
    """Order code → the checkout as it was asked, in order of time."""
    t = asked.join(log.users.select("user", "user_id"), "user").join(basket_lists(log), "order")
    ids = dict(zip(*con.to_pyarrow(log.items.select("item", "item_id")).to_pydict().values(), strict=True))
    found = {}
    for row in con.to_pyarrow(t.order_by("order")).to_pylist():
        basket = (row[f"basket_{name}"] for name in ("item", "quantity", "price"))
        found[row["order"]] = Checkout(
            user_id=row["user_id"],
            basket=[Line(ids[item], quantity, price) for item, quantity, price in zip(*basket, strict=True)],
            ts=row["ts"],
            context={c: row[f"context_{c}"] for c in log.context_names if row[f"context_{c}"] is not None},
            order_id=row["order_id"],
        )
    return found


def _outcomes(
    con: ibis.BaseBackend, log: EncodedTables, asked: ir.Table
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(order code, item code) → click, purchase and what was spent, of what was shown and clicked."""
    bounds = con.to_pyarrow(asked.agg(a=asked.ts.min(), b=asked.horizon_end.max())).to_pylist()[0]
    events = engine.materialize(con, "attributed", attribute_to_checkouts(log, asked))
    t = con.to_pyarrow(outcome_lists(log, asked, events, (bounds["a"], bounds["b"])))
    found = {}
    for row in t.to_pylist():
        named = (row[f"outcome_{c}"] for c in ("item", "impression", "click", "purchase", "value"))
        for item, shown, click, purchase, spent in zip(*named, strict=True):
            if shown and click:  # what is bought without a click would have been bought without the slot
                found[row["order"], item] = (1.0, float(purchase), spent)
    return found


def _history_store(con: ibis.BaseBackend, log: EncodedTables, schema: FeatureSchema, folder: Path) -> Store:
    """A store of what the shop's tables say, by the code that an export uses."""
    schema = replace(schema, profile=[a for a in schema.profile if a.name in log.profile_names])
    store.write_user_histories(con, log, schema, folder)
    write_store(folder, schema, folder / "store.arrow")
    return open_store(folder / "store.arrow")  # mapped: it outlives the name of its file


def _build_logged_checkouts(
    checkouts: dict[int, Checkout], slots: pa.Table, won: dict[tuple[int, int], tuple[float, float, float]],
    facts: Store, left_out: dict[str, int],
) -> LoggedCheckouts:  # fmt: skip
    place = {order: at for at, order in enumerate(checkouts)}
    if (most := 1 + max(slots["slot"].to_pylist())) > SLOTS:
        raise DataError(
            f"the log has slates of {most} items, a bundle shows {SLOTS}: it cannot be judged by them"
        )
    shape = (len(checkouts), SLOTS)
    item, propensity, click = np.full(shape, "", object), np.ones(shape), np.full(shape, UNKNOWN)
    rewards: dict[str, Array] = defaultdict(lambda: np.zeros(shape))
    for row in slots.to_pylist():
        at = place[row["order"]], row["slot"]
        item[at], propensity[at] = row["item_id"], row["propensity"]
        click[at] = UNKNOWN if row["p_click"] is None else row["p_click"]
        for name, reward in zip(REWARDS, won.get((row["order"], row["item"]), (0.0,) * 3), strict=True):
            rewards[name][at] = reward
    every = list(checkouts.values())
    user = np.array([checkout.user_id for checkout in every])
    return LoggedCheckouts(every, user, item, propensity, click, dict(rewards), facts, left_out)
