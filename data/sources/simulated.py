"""The simulated market: a shop of any size in which every probability is known.

See docs/explanation/simulated_market.md.

    order ─▶ slate by the shop's policy ─▶ examined? ──▶ clicked? ──────▶ in the next order?
    basket     logged with propensity        by position   by preference    by preference

The canonical tables lie below `data.root`, next to `truth.parquet`, which no model reads.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.io.folders import publish_folder
from data.sources import tables
from serving.table_files import TableFile
from simulation import behaviour, catalog, logged_market, needs, people, responses
from simulation.catalog import BRANDS, LEAVES, Array, SimulatedItems
from simulation.logged_market import Round

EVENT_COLUMNS = ("order_id", "user_id", "item_id", "ts", "kind", "position", "propensity", "value")
SIMULATION_SETTINGS = ("users", "items", "days", "gap", "slots", "exploration", "position_bias", "seed")
# `data.vector` for a config of an earlier release, which lacks this key.
DEFAULT_VECTOR = {"dim": 0, "noise": 0.5}
# The simulated tables depend on the code of these modules.
SIMULATOR_MODULES = (catalog, people, behaviour, responses, needs, logged_market)
TRUTH_FILE = "truth.parquet"


class GroundTruth(NamedTuple):
    """True probabilities of m (checkout, item) pairs, float64 [m] each.

    A purchase is a purchase in the user's next order. The last three are NaN where `data.organic.share` is
    null.
    """

    p_click_given_examined: Array  # p(click | examined), equal to p(click | first slot)
    p_purchase_given_click: Array  # p(purchase | click)
    expected_value: Array  # of a click and a purchase in the first slot: p_click · p_purchase · mean spend
    p_purchase_shown: Array  # p(purchase | shown in the first slot), clicked or not
    p_purchase_not_shown: Array  # p(purchase | not shown)
    incremental_value: Array  # of the item in the first slot: (p_shown - p_not_shown) · mean spend


def table_files(cfg: Mapping[str, Any]) -> dict[str, TableFile]:
    """Returns canonical table → its file, simulated first if it is missing. `cfg` is the data config."""
    folder = simulation_folder(cfg)
    if not folder.is_dir():
        _write_simulation(cfg, folder)
    return tables.table_files({"root": str(folder)})


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """Reads the canonical tables, raw, with `_row`."""
    return tables.read_tables(con, {"root": str(simulation_folder(cfg))})


def simulation_folder(cfg: Mapping[str, Any]) -> Path:
    """The folder of this market below `data.root`, keyed by its settings and the simulator's code.

    Raises DataError for a horizon other than the next order, for which no truth is known.
    """
    if cfg["horizon"] != "next_order":
        raise DataError(
            f"data.horizon is '{cfg['horizon']}', expected next_order: the truth of the simulated market "
            "describes what follows until the next order"
        )
    settings = [cfg[k] for k in SIMULATION_SETTINGS] + list(_item_list_settings(cfg).values())
    settings += list(_demand_settings(cfg).values())
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=6)
    for file in (*(module.__file__ for module in SIMULATOR_MODULES), __file__):
        digest.update(Path(str(file)).read_bytes())
    return Path(cfg["root"]) / digest.hexdigest()


def ground_truth(cfg: Mapping[str, Any], order: Array, item: Array) -> GroundTruth:
    """The truth of pairs of an order number [m] and an item number [m], with or without an impression.

    The function runs the simulation again. Raises ValueError for an order or item that this market does not
    have.
    """
    items = catalog.sample_items(cfg)
    by_order = np.argsort(order, kind="stable")
    sorted_order = order[by_order]
    if len(item) and not 0 <= item.min() <= item.max() < len(items.price):
        raise ValueError(f"items of this market are 0 to {len(items.price) - 1}")
    truth = np.full((4, len(order)), np.nan)
    for step in logged_market.simulate_orders(cfg, items):
        first, last = (np.searchsorted(sorted_order, step.order, side=side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(step.order)), last - first)
        group_start = np.r_[0, np.cumsum(last - first)[:-1]]
        pair = by_order[np.arange(len(row)) + np.repeat(first - group_start, last - first)]
        pairs = (row, item[pair])
        truth[0, pair] = step.responses.p_click_given_examined[pairs]
        truth[1, pair] = step.responses.p_purchase_given_click[pairs]
        if step.responses.organic is not None:
            truth[2, pair] = step.responses.organic.p_not_shown[pairs]
            truth[3, pair] = step.responses.organic.p_added[pairs]
    if np.isnan(truth[:2]).any():
        raise ValueError(f"order {order[np.isnan(truth[0])][0]} is not of this market")
    mean_spend = items.price[item] * behaviour.MEAN_SPEND_RATIO
    click, purchase, not_shown, added = truth
    return GroundTruth(
        p_click_given_examined=click,
        p_purchase_given_click=purchase,
        expected_value=click * purchase * mean_spend,
        p_purchase_shown=not_shown + added,
        p_purchase_not_shown=not_shown,
        incremental_value=added * mean_spend,
    )


def best_incremental_value(cfg: Mapping[str, Any], order: Array) -> Array:
    """The true incremental value [n] of the best possible slate after each order number [n].

    The slate may hold all items except those that were just paid. The function runs the simulation again. The
    values are NaN if `data.organic.share` is null.
    """
    items = catalog.sample_items(cfg)
    slots = int(cfg["slots"])
    p_examined = behaviour.examination_probability(slots, cfg["position_bias"])
    sellable, best = needs.sellable_items(cfg, len(items.price)), np.full(len(order), np.nan)
    by_order = np.argsort(order)
    for step in logged_market.simulate_orders(cfg, items):
        row = np.flatnonzero(np.isin(step.order, order))
        if step.responses.organic is None or len(row) == 0:
            continue
        value = step.responses.organic.p_added * items.price * behaviour.MEAN_SPEND_RATIO
        value[~(sellable & (items.created_at <= step.ts[:, None]))] = 0.0
        value[step.lines.row, step.lines.item] = 0.0
        top = -np.sort(-value[row], axis=1)[:, :slots]
        best[by_order[np.searchsorted(order[by_order], step.order[row])]] = top @ p_examined
    return best


def _tables(cfg: Mapping[str, Any], items: SimulatedItems, step: Round) -> dict[str, dict[str, Array]]:
    """Returns table → column → values, for orders, events and truth."""
    lines, row = step.lines, step.lines.row
    orders = {"order_id": step.order[row], "user_id": step.user[row], "item_id": lines.item,
              "ts": step.ts[row], "quantity": lines.quantity, "price": lines.price}  # fmt: skip
    purchases = {name: column[lines.from_slate] for name, column in orders.items()}
    purchases["value"] = purchases.pop("quantity") * purchases.pop("price")
    purchases["order_id"] = purchases["order_id"] - 1  # the previous checkout, to which the slate belongs
    withhold = _demand_settings(cfg).get("withhold")
    p_examined = behaviour.examination_probability(int(cfg["slots"]), cfg["position_bias"])
    return {
        "orders": orders,
        "events": _events(step, purchases, withhold),
        "truth": _truth(items, step, p_examined),
    }


def _events(step: Round, purchases: dict[str, Array], withhold: float | None) -> dict[str, Array]:
    """Impressions, ghosts and clicks of these slates, and the purchases that followed the previous slates.

    Impressions and ghosts have the column `withhold` if slates are withheld.
    """
    slates = step.slates
    row, slot = np.nonzero(np.ones_like(slates.clicked))
    clicked_row, clicked_slot = np.nonzero(slates.clicked)
    impressions = {
        "order_id": step.order[row],
        "user_id": step.user[row],
        "item_id": slates.item[row, slot],
        "ts": step.ts[row] + 5,
        "position": slot + 1.0,
        "propensity": slates.propensity[row, slot],
    }
    clicks = {
        "order_id": step.order[clicked_row],
        "user_id": step.user[clicked_row],
        "item_id": slates.item[clicked_row, clicked_slot],
        "ts": step.ts[clicked_row] + 60 + clicked_slot,
        "position": clicked_slot + 1.0,
    }
    names = list(EVENT_COLUMNS)
    if withhold is not None:
        names.append("withhold")
        impressions["withhold"] = np.full(len(row), withhold)
    impressions["kind"] = np.where(slates.withheld[row], "ghost", "impression")
    parts = [impressions, clicks | {"kind": np.repeat("click", len(clicked_row))},
             purchases | {"kind": np.repeat("purchase", len(purchases["order_id"]))}]  # fmt: skip
    for part in parts:
        n = len(part["order_id"])
        part |= {name: np.full(n, np.nan) for name in names if name not in part}
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _truth(items: SimulatedItems, step: Round, p_examined: Array) -> dict[str, Array]:
    """The truth of every item of these slates, as if every slate were shown."""
    slate, responses = step.slates.item, step.responses

    def of_slate(values: Array) -> Array:
        return np.take_along_axis(values, slate, 1).astype(np.float64)

    click, purchase = of_slate(responses.p_click_given_examined), of_slate(responses.p_purchase_given_click)
    not_shown = added = np.full(slate.shape, np.nan)
    if responses.organic is not None:
        not_shown = of_slate(responses.organic.p_not_shown)
        added = p_examined * of_slate(responses.organic.p_added)
    mean_spend = items.price[slate] * behaviour.MEAN_SPEND_RATIO
    columns = {
        "order_id": np.broadcast_to(step.order[:, None], slate.shape),
        "item_id": slate,
        "position": np.broadcast_to(np.arange(1, len(p_examined) + 1), slate.shape),
        "p_examined": np.broadcast_to(p_examined, slate.shape),
        "p_click_given_examined": click,
        "p_click_at_position": p_examined * click,
        "p_purchase_given_click": purchase,
        "expected_value": p_examined * click * purchase * items.price[slate] * behaviour.MEAN_SPEND_RATIO,
        "p_purchase_shown": not_shown + added,
        "p_purchase_not_shown": not_shown,
        "incremental_value": added * mean_spend,
        "withheld": np.broadcast_to(step.slates.withheld[:, None], slate.shape),
    }
    return {name: values.ravel() for name, values in columns.items()}


def _write_simulation(cfg: Mapping[str, Any], folder: Path) -> None:
    """Write the canonical tables and the truth."""
    items = catalog.sample_items(cfg)
    writers: dict[str, pq.ParquetWriter] = {}
    with publish_folder(folder, TRUTH_FILE) as temporary:
        pq.write_table(_item_list(cfg, items), temporary / "items.parquet")
        pq.write_table(pa.table({"user_id": np.arange(int(cfg["users"]))}), temporary / "users.parquet")
        for step in logged_market.simulate_orders(cfg, items):
            for name, columns in _tables(cfg, items, step).items():
                # NaN becomes null in float columns.
                table = pa.table({c: pa.array(v, from_pandas=True) for c, v in columns.items()})
                if name not in writers:
                    writers[name] = pq.ParquetWriter(temporary / f"{name}.parquet", table.schema)
                writers[name].write_table(table)
        for writer in writers.values():
            writer.close()


def _demand_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of organic demand and withholding that differ from the defaults.

    Raises DataError for invalid settings.
    """
    withhold = float(cfg.get("withhold") or 0.0)
    if not 0 <= withhold < 1:
        raise DataError(f"data.withhold is {withhold}, expected a share of the checkouts from 0 to below 1")
    try:
        needs.organic_demand(cfg)
    except ValueError as error:
        raise DataError(str(error)) from error
    share = (cfg.get("organic") or {}).get("share")
    settings = {"withhold": withhold or None, "organic share": share}
    return {name: value for name, value in settings.items() if value is not None}


def _item_list_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change the item list, but not the behaviour of users.

    Raises DataError for invalid settings.
    """
    vector = DEFAULT_VECTOR | dict(cfg.get("vector") or {})
    for name, value in vector.items():
        if not value >= 0:
            raise DataError(f"data.vector.{name} is {value}, expected 0 or more")
    return {"vector": vector, "titles_and_categories": bool(cfg.get("titles_and_categories", True))}


def _item_list(cfg: Mapping[str, Any], items: SimulatedItems) -> pa.Table:
    """The canonical table `items`, with a column `embedding` if `data.vector.dim` is above 0."""
    settings = _item_list_settings(cfg)
    n = len(items.price)
    has_text = settings["titles_and_categories"]
    columns = {
        "item_id": np.arange(n),
        "title": pa.array(catalog.item_titles(items) if has_text else [None] * n, pa.string()),
        "category": pa.array([LEAVES[leaf] for leaf in items.leaf] if has_text else [None] * n, pa.string()),
        "brand": [BRANDS[brand] for brand in items.brand],
        "price": items.price,
        "margin": items.margin,
        "created_at": items.created_at,
    }
    sellable = needs.sellable_items(cfg, n)
    if not sellable.all():
        columns["available"] = sellable
    if int(settings["vector"]["dim"]) > 0:
        vectors = catalog.item_vectors(items, {**cfg, **settings})
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table(columns)
