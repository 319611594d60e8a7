"""A simulated marketplace of any size, in which every probability is known (docs/simulated.md).

    orders ─▶ slate by the shop's policy ─▶ examined? ─▶ clicked? ─▶ in the next order?
    basket      logged with propensity      by position    by taste       by taste

The log goes to the canonical tables below `data.root`, and the truth beside them to `truth.parquet`, which no
model reads. Users are simulated in blocks, each from a random stream of its own, so memory does not grow
with their number; inside a block, all users make their k-th order at once.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import DataError
from data.sources import tables
from simulation import market
from simulation.market import (
    BRANDS,
    DAY,
    LEAVES,
    SIMULATION_START,
    Array,
    PurchaseState,
    SimulatedItems,
    SimulatedUsers,
    examination_probability,
)

USERS_PER_BLOCK = 256  # users at a time
MAX_ORDERS_PER_USER = 10_000  # order number = user * ROUNDS + round
ORDER_LINE_COLUMNS = ("order_id", "user_id", "item_id", "ts", "quantity", "price")
SIMULATED_EVENT_KINDS = ("impression", "click", "purchase")
SIMULATION_SETTINGS = ("users", "items", "days", "gap", "slots", "exploration", "position_bias", "seed")


class GroundTruth(NamedTuple):
    """What the simulator knows of m (checkout, item) pairs, float64 [m] each."""

    p_click_given_examined: Array  # p(click | examined), which is p(click | shown first)
    p_purchase_given_click: Array  # p(purchase | click)
    expected_value: Array  # of showing it first: p_click · p_purchase · mean spend


class Round(NamedTuple):
    """One order of each of the n users of a block that are still there, and what they would do next."""

    order: Array  # [n] int64
    p_click_given_examined: Array  # [n, I] float32, p(click | examined)
    p_purchase_given_click: Array  # [n, I] float32, p(purchase | click)
    tables: dict[str, dict[str, Array]]  # table → column → values, of orders, events and truth


def table_files(cfg: Mapping[str, Any]) -> dict[str, Path]:
    """Canonical table → its file, simulated if not there yet. `cfg` is the data config."""
    folder = simulation_folder(cfg)
    if not folder.is_dir():
        _write(cfg, folder)
    return tables.table_files({"root": str(folder)})


def read_tables(con: ibis.BaseBackend, cfg: Mapping[str, Any]) -> dict[str, ir.Table]:
    """The canonical tables, raw, with `_row`."""
    return tables.read_tables(con, {"root": str(simulation_folder(cfg))})


def simulation_folder(cfg: Mapping[str, Any]) -> Path:
    """Where this marketplace lies: below `data.root`, keyed by its settings and the simulator's code.

    Raises DataError for a horizon that the truth does not describe.
    """
    if cfg["horizon"] != "next_order":
        raise DataError(
            f"data.horizon is '{cfg['horizon']}': what is simulated follows until the next order, so its "
            "truth is that of horizon next_order"
        )
    digest = hashlib.blake2b(json.dumps([cfg[k] for k in SIMULATION_SETTINGS]).encode(), digest_size=6)
    for module in (market.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return Path(cfg["root"]) / digest.hexdigest()


def ground_truth(cfg: Mapping[str, Any], order: Array, item: Array) -> GroundTruth:
    """The truth of any pairs of an order number [m] with an item number [m], shown or not.

    It runs the marketplace again and reads the pairs off. Raises ValueError for an order or item that is
    not of it.
    """
    goods = market.sample_items(cfg)
    place = np.argsort(order, kind="stable")
    asked = order[place]
    out = np.full((2, len(order)), np.nan)
    if len(item) and not 0 <= item.min() <= item.max() < len(goods.price):
        raise ValueError(f"items of this marketplace are 0 to {len(goods.price) - 1}")
    for at in simulate_orders(cfg, goods):
        first, last = (np.searchsorted(asked, at.order, side=side) for side in ("left", "right"))
        row = np.repeat(np.arange(len(at.order)), last - first)
        pair = place[
            np.arange(len(row)) + np.repeat(first - np.r_[0, np.cumsum(last - first)[:-1]], last - first)
        ]
        out[:, pair] = at.p_click_given_examined[row, item[pair]], at.p_purchase_given_click[row, item[pair]]
    if np.isnan(out).any():
        raise ValueError(f"order {order[np.isnan(out[0])][0]} is not of this marketplace")
    return GroundTruth(out[0], out[1], out[0] * out[1] * goods.price[item] * market.MEAN_SPEND_RATIO)


def simulate_orders(cfg: Mapping[str, Any], goods: SimulatedItems) -> Iterator[Round]:
    """All rounds of all blocks of users."""
    users = np.arange(int(cfg["users"]))
    for number, start in enumerate(range(0, len(users), USERS_PER_BLOCK)):
        rng = np.random.default_rng([cfg["seed"], 1, number])
        yield from _block(
            cfg, goods, market.sample_users(cfg, rng, users[start : start + USERS_PER_BLOCK]), rng
        )


def _block(
    cfg: Mapping[str, Any], goods: SimulatedItems, people: SimulatedUsers, rng: np.random.Generator
) -> Iterator[Round]:
    n, items, slots = len(people.user), len(goods.price), int(cfg["slots"])
    seen, end = (
        examination_probability(slots, cfg["position_bias"]),
        SIMULATION_START + int(cfg["days"]) * DAY,
    )
    state = market.initial_state(n, items)
    decided = np.zeros((n, items), bool)  # clicked in the last slate: to be bought now, or not
    carried = np.zeros((n, items), bool)  # of these, what is bought now
    now = SIMULATION_START + (rng.uniform(0, 2, n) * people.order_gap_days * DAY).astype(np.int64)
    for k in range(MAX_ORDERS_PER_USER):
        here = now < end
        if not here.all():
            people, state = (
                SimulatedUsers(*(a[here] for a in people)),
                PurchaseState(*(a[here] for a in state)),
            )
            now, decided, carried = now[here], decided[here], carried[here]
        n = len(now)
        if n == 0:
            return
        order = people.user * MAX_ORDERS_PER_USER + k
        state.in_basket[:] = market.sample_basket(goods, people, state, decided, now, rng) | carried
        who, what = np.nonzero(state.in_basket)
        quantity = 1 + (rng.random(len(who)) < market.DOUBLE_QUANTITY_PROBABILITY)
        price = np.round(
            goods.price[what] * np.where(rng.random(len(who)) < market.DISCOUNT_PROBABILITY, 0.8, 1.0), 2
        )
        market.add_purchases(goods, state, who, what, quantity * price)
        lines = [order[who], people.user[who], what, now[who], quantity, price]
        followed = carried[who, what]
        bought = [order[who] - 1, people.user[who], what, now[who], quantity * price]
        habits = market.habit_features(goods, state)
        click, buy = market.response_probabilities(goods, people, state, habits, now)
        slate, propensity = market.sample_slate(goods, habits, now, rng, slots, cfg["exploration"])
        luck = rng.random((3, n, slots))
        clicked = (luck[0] < seen) & (luck[1] < np.take_along_axis(click, slate, 1))
        carries = clicked & (luck[2] < np.take_along_axis(buy, slate, 1))
        rows = {
            "orders": dict(zip(ORDER_LINE_COLUMNS, lines, strict=True)),
            "events": _events(order, people.user, now, slate, propensity, clicked,
                              [column[followed] for column in bought]),
            "truth": _truth(goods, order, slate, seen, click, buy),
        }  # fmt: skip
        yield Round(order, click, buy, rows)
        decided[:], carried[:] = False, False
        np.put_along_axis(decided, slate, clicked, 1)
        np.put_along_axis(carried, slate, carries, 1)
        now = now + ((0.1 + 0.9 * rng.gamma(2, 0.5, n)) * people.order_gap_days * DAY).astype(np.int64)


def _events(
    order: Array, user: Array, now: Array, slate: Array, propensity: Array, clicked: Array,
    bought: list[Array],
) -> dict[str, Array]:  # fmt: skip
    """Impressions and clicks of this slate, and the purchases that followed the slate before."""
    who, slot = np.nonzero(np.ones_like(clicked))
    touched, at = np.nonzero(clicked)
    none = [np.full(len(rows), np.nan) for rows in (who, touched, bought[0])]
    columns = {
        "order_id": [order[who], order[touched], bought[0]],
        "user_id": [user[who], user[touched], bought[1]],
        "item_id": [slate[who, slot], slate[touched, at], bought[2]],
        "ts": [now[who] + 5, now[touched] + 60 + at, bought[3]],
        "kind": [np.repeat(kind, len(rows)) for kind, rows in zip(SIMULATED_EVENT_KINDS, none, strict=True)],
        "position": [slot + 1.0, at + 1.0, none[2]],
        "propensity": [propensity[who, slot], none[1], none[2]],
        "value": [none[0], none[1], bought[4]],
    }
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _truth(
    goods: SimulatedItems, order: Array, slate: Array, seen: Array, click: Array, buy: Array
) -> dict[str, Array]:
    p_click, p_purchase = (np.take_along_axis(p, slate, 1).astype(np.float64) for p in (click, buy))
    columns = {
        "order_id": np.broadcast_to(order[:, None], slate.shape),
        "item_id": slate,
        "position": np.broadcast_to(np.arange(1, len(seen) + 1), slate.shape),
        "p_examined": np.broadcast_to(seen, slate.shape),
        "p_click_examined": p_click,
        "p_click_shown": seen * p_click,
        "p_purchase_given_click": p_purchase,
        "expected_value": seen * p_click * p_purchase * goods.price[slate] * market.MEAN_SPEND_RATIO,
    }
    return {name: values.ravel() for name, values in columns.items()}


def _write(cfg: Mapping[str, Any], folder: Path) -> None:
    """All tables and the truth; the folder appears under its name only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    goods = market.sample_items(cfg)
    users = np.arange(int(cfg["users"]))
    columns = {
        "item_id": np.arange(len(goods.price)), "title": market.item_titles(goods),
        "category": [LEAVES[leaf] for leaf in goods.leaf], "brand": [BRANDS[b] for b in goods.brand],
        "price": goods.price, "margin": goods.margin, "created_at": goods.created_at,
    }  # fmt: skip
    writers: dict[str, pq.ParquetWriter] = {}
    try:
        pq.write_table(pa.table(columns), made / "items.parquet")
        pq.write_table(pa.table({"user_id": users}), made / "users.parquet")
        for at in simulate_orders(cfg, goods):
            for name, rows in at.tables.items():
                # NaN stands for "none" in float columns.
                table = pa.table({c: pa.array(v, from_pandas=True) for c, v in rows.items()})
                if name not in writers:
                    writers[name] = pq.ParquetWriter(made / f"{name}.parquet", table.schema)
                writers[name].write_table(table)
        for writer in writers.values():
            writer.close()
        made.chmod(0o755)
        os.replace(made, folder)
    except OSError:
        if not folder.is_dir():  # anything but another run that was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
