"""The simulated market as a shop of any size, in which every probability is known (docs/simulated.md).

    order ─▶ slate by the shop's policy ─▶ examined? ──▶ clicked? ──────▶ in the next order?
    basket     logged with propensity        by position   by preference    by preference

The canonical tables lie below `data.root`, next to `truth.parquet`, which no model reads. Users are simulated
in blocks, each with a random stream of its own, so memory does not grow with their number. In a block, all
users make their k-th order at the same step.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
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
from simulation import behaviour, catalog, people
from simulation.catalog import BRANDS, LEAVES, SECONDS_PER_DAY, SIMULATION_START, Array, SimulatedItems
from simulation.people import PurchaseState, SimulatedUsers

USERS_PER_BLOCK = 256
MAX_ORDERS_PER_USER = 10_000  # order number = user · MAX_ORDERS_PER_USER + round
EVENT_COLUMNS = ("order_id", "user_id", "item_id", "ts", "kind", "position", "propensity", "value")
SIMULATION_SETTINGS = ("users", "items", "days", "gap", "slots", "exploration", "position_bias", "seed")
# `data.vector` where a config of an earlier release has none.
DEFAULT_VECTOR = {"dim": 0, "noise": 0.5}
SIMULATOR_MODULES = (catalog, people, behaviour)  # what is simulated depends on their code
TRUTH_FILE = "truth.parquet"


class GroundTruth(NamedTuple):
    """True probabilities of m (checkout, item) pairs, float64 [m] each."""

    p_click_given_examined: Array  # p(click | examined), equal to p(click | first slot)
    p_purchase_given_click: Array  # p(purchase | click)
    expected_value: Array  # of the item in the first slot: p_click · p_purchase · mean spend


class Round(NamedTuple):
    """One order of each of the n users of a block who still order, and their responses right after it."""

    order: Array  # [n] int64
    p_click_given_examined: Array  # [n, I] float32, p(click | examined)
    p_purchase_given_click: Array  # [n, I] float32, p(purchase | click)
    tables: dict[str, dict[str, Array]]  # table → column → values, of orders, events and truth


class LoggedSlates(NamedTuple):
    """The slates after n orders, as the shop logs them."""

    order: Array  # [n] int64
    user: Array  # [n] int64
    ts: Array  # [n] int64, of the order
    item: Array  # [n, slots] int64
    propensity: Array  # [n, slots]
    clicked: Array  # [n, slots] bool


def table_files(cfg: Mapping[str, Any]) -> dict[str, Path]:
    """Canonical table → its file, simulated first if it is missing. `cfg` is the data config."""
    folder = simulation_folder(cfg)
    if not folder.is_dir():
        _write_simulation(cfg, folder)
    return tables.table_files({"root": str(folder)})


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The canonical tables, raw, with `_row`."""
    return tables.read_tables(con, {"root": str(simulation_folder(cfg))})


def simulation_folder(cfg: Mapping[str, Any]) -> Path:
    """The folder of this market below `data.root`, keyed by its settings and the simulator's code.

    Raises DataError for a horizon that the truth does not describe.
    """
    if cfg["horizon"] != "next_order":
        raise DataError(
            f"data.horizon is '{cfg['horizon']}', expected next_order: the truth of the simulated market "
            "describes what follows until the next order"
        )
    settings = [cfg[k] for k in SIMULATION_SETTINGS] + list(_item_list_settings(cfg).values())
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=6)
    for file in (*(module.__file__ for module in SIMULATOR_MODULES), __file__):
        digest.update(Path(str(file)).read_bytes())
    return Path(cfg["root"]) / digest.hexdigest()


def ground_truth(cfg: Mapping[str, Any], order: Array, item: Array) -> GroundTruth:
    """The truth of any pairs of an order number [m] and an item number [m], with or without an impression.

    It runs the simulation again. Raises ValueError for an order or item that this market does not have.
    """
    items = catalog.sample_items(cfg)
    by_order = np.argsort(order, kind="stable")
    sorted_order = order[by_order]
    truth = np.full((2, len(order)), np.nan)
    if len(item) and not 0 <= item.min() <= item.max() < len(items.price):
        raise ValueError(f"items of this market are 0 to {len(items.price) - 1}")
    for step in simulate_orders(cfg, items):
        first, last = (np.searchsorted(sorted_order, step.order, side=side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(step.order)), last - first)
        group_start = np.r_[0, np.cumsum(last - first)[:-1]]
        pair = by_order[np.arange(len(row)) + np.repeat(first - group_start, last - first)]
        truth[0, pair] = step.p_click_given_examined[row, item[pair]]
        truth[1, pair] = step.p_purchase_given_click[row, item[pair]]
    if np.isnan(truth).any():
        raise ValueError(f"order {order[np.isnan(truth[0])][0]} is not of this market")
    value = truth[0] * truth[1] * items.price[item] * behaviour.MEAN_SPEND_RATIO
    return GroundTruth(truth[0], truth[1], value)


def simulate_orders(cfg: Mapping[str, Any], items: SimulatedItems) -> Iterator[Round]:
    """All rounds of all blocks of users."""
    user = np.arange(int(cfg["users"]))
    for number, start in enumerate(range(0, len(user), USERS_PER_BLOCK)):
        rng = np.random.default_rng([cfg["seed"], 1, number])
        users = people.sample_users(cfg, rng, user[start : start + USERS_PER_BLOCK])
        yield from _simulate_block(cfg, items, users, rng)


def _simulate_block(
    cfg: Mapping[str, Any], items: SimulatedItems, users: SimulatedUsers, rng: np.random.Generator
) -> Iterator[Round]:
    shape, slots = (len(users.user), len(items.price)), int(cfg["slots"])
    p_examined = behaviour.examination_probability(slots, cfg["position_bias"])
    end = SIMULATION_START + int(cfg["days"]) * SECONDS_PER_DAY
    state = people.initial_state(*shape)
    clicked_items = np.zeros(shape, bool)  # in the last slate: in this order, or not
    pending_purchases = np.zeros(shape, bool)  # of these, what is in this order
    ts = SIMULATION_START + (
        rng.uniform(0, 2, shape[0]) * users.order_gap_days * SECONDS_PER_DAY
    ).astype(np.int64)  # fmt: skip
    for number in range(MAX_ORDERS_PER_USER):
        active = ts < end
        if not active.all():
            users = SimulatedUsers(*(column[active] for column in users))
            state = PurchaseState(*(column[active] for column in state))
            ts, clicked_items, pending_purchases = (
                ts[active],
                clicked_items[active],
                pending_purchases[active],
            )
        if len(ts) == 0:
            return
        order = users.user * MAX_ORDERS_PER_USER + number
        state.in_basket[:] = (
            behaviour.sample_basket(items, users, state, clicked_items, ts, rng) | pending_purchases
        )
        row, item = np.nonzero(state.in_basket)
        quantity, price = behaviour.sample_quantities_and_prices(items, item, rng)
        people.add_purchases(items, state, row, item, quantity * price)
        lines = {"order_id": order[row], "user_id": users.user[row], "item_id": item, "ts": ts[row],
                 "quantity": quantity, "price": price}  # fmt: skip
        habits = behaviour.habit_features(items, state)
        p_click, p_purchase = behaviour.response_probabilities(items, users, state, habits, ts)
        slate, propensity = behaviour.sample_slate(items, habits, ts, rng, slots, cfg["exploration"])
        draws = rng.random((3, len(ts), slots))
        clicked = (draws[0] < p_examined) & (draws[1] < np.take_along_axis(p_click, slate, 1))
        purchased = clicked & (draws[2] < np.take_along_axis(p_purchase, slate, 1))
        slates = LoggedSlates(order, users.user, ts, slate, propensity, clicked)
        yield Round(order, p_click, p_purchase, {
            "orders": lines,
            "events": _events(slates, _slate_purchases(lines, pending_purchases[row, item])),
            "truth": _truth(items, slates, p_examined, p_click, p_purchase),
        })  # fmt: skip
        for item_mask, slot_mask in ((clicked_items, clicked), (pending_purchases, purchased)):
            item_mask[:] = False
            np.put_along_axis(item_mask, slate, slot_mask, 1)
        ts = ts + behaviour.sample_order_gaps(users.order_gap_days, rng)


def _slate_purchases(lines: dict[str, Array], from_slate: Array) -> dict[str, Array]:
    """Purchase events of the order lines that the user's last slate led to."""
    lines = {name: column[from_slate] for name, column in lines.items()}
    return {
        "order_id": lines["order_id"] - 1,  # the checkout before, to which the slate belongs
        "user_id": lines["user_id"],
        "item_id": lines["item_id"],
        "ts": lines["ts"],
        "value": lines["quantity"] * lines["price"],
    }


def _events(slates: LoggedSlates, purchases: dict[str, Array]) -> dict[str, Array]:
    """Impressions and clicks of these slates, and the purchases that the slates before led to."""
    row, slot = np.nonzero(np.ones_like(slates.clicked))
    clicked_row, clicked_slot = np.nonzero(slates.clicked)
    impressions = {
        "order_id": slates.order[row],
        "user_id": slates.user[row],
        "item_id": slates.item[row, slot],
        "ts": slates.ts[row] + 5,
        "position": slot + 1.0,
        "propensity": slates.propensity[row, slot],
    }
    clicks = {
        "order_id": slates.order[clicked_row],
        "user_id": slates.user[clicked_row],
        "item_id": slates.item[clicked_row, clicked_slot],
        "ts": slates.ts[clicked_row] + 60 + clicked_slot,
        "position": clicked_slot + 1.0,
    }
    parts = []
    for kind, columns in (("impression", impressions), ("click", clicks), ("purchase", purchases)):
        n = len(columns["order_id"])
        parts.append({"kind": np.repeat(kind, n), **columns})
        parts[-1] |= {name: np.full(n, np.nan) for name in EVENT_COLUMNS if name not in parts[-1]}
    return {name: np.concatenate([part[name] for part in parts]) for name in EVENT_COLUMNS}


def _truth(
    items: SimulatedItems, slates: LoggedSlates, p_examined: Array, p_click: Array, p_purchase: Array
) -> dict[str, Array]:
    slate = slates.item
    click, purchase = (
        np.take_along_axis(p, slate, 1).astype(np.float64) for p in (p_click, p_purchase)
    )  # fmt: skip
    columns = {
        "order_id": np.broadcast_to(slates.order[:, None], slate.shape),
        "item_id": slate,
        "position": np.broadcast_to(np.arange(1, len(p_examined) + 1), slate.shape),
        "p_examined": np.broadcast_to(p_examined, slate.shape),
        "p_click_given_examined": click,
        "p_click_at_position": p_examined * click,
        "p_purchase_given_click": purchase,
        "expected_value": p_examined * click * purchase * items.price[slate] * behaviour.MEAN_SPEND_RATIO,
    }
    return {name: values.ravel() for name, values in columns.items()}


def _write_simulation(cfg: Mapping[str, Any], folder: Path) -> None:
    """Write the canonical tables and the truth."""
    items = catalog.sample_items(cfg)
    writers: dict[str, pq.ParquetWriter] = {}
    with publish_folder(folder, TRUTH_FILE) as temporary:
        pq.write_table(_item_list(cfg, items), temporary / "items.parquet")
        pq.write_table(pa.table({"user_id": np.arange(int(cfg["users"]))}), temporary / "users.parquet")
        for step in simulate_orders(cfg, items):
            for name, columns in step.tables.items():
                # NaN becomes null in float columns.
                table = pa.table({c: pa.array(v, from_pandas=True) for c, v in columns.items()})
                if name not in writers:
                    writers[name] = pq.ParquetWriter(temporary / f"{name}.parquet", table.schema)
                writers[name].write_table(table)
        for writer in writers.values():
            writer.close()


def _item_list_settings(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change the item list, but not the behaviour of users.

    Raises DataError for those that cannot be used.
    """
    vector = DEFAULT_VECTOR | dict(cfg.get("vector") or {})
    for name, value in vector.items():
        if not value >= 0:
            raise DataError(f"data.vector.{name} is {value}, expected 0 or more")
    return {"vector": vector, "titles_and_categories": bool(cfg.get("titles_and_categories", True))}


def _item_list(cfg: Mapping[str, Any], items: SimulatedItems) -> pa.Table:
    """The canonical table `items`, with `embedding` where `data.vector.dim` is above 0."""
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
    if int(settings["vector"]["dim"]) > 0:
        vectors = catalog.item_vectors(items, {**cfg, **settings})
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    return pa.table(columns)
