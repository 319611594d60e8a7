"""What the shop around the crowd keeps: tables on disk, the store that serving asks, the impression log.

    orders of a day ─▶ a slate each ─ shown ─▶ events/     (impressions and clicks, as they happen)
          ╰─ arrive, some days late ─▶ orders.parquet, store, and purchases in events/

Everything that training sees is read from the folder `tables`, as from any shop's (`data=tables`).
"""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving import Checkout, Event, ImpressionLog, Item, Line, Slate, Store
from serving.stores.base import purchase_events
from simulation.catalog import BRANDS, LEAVES, SECONDS_PER_DAY, SIMULATION_START, Array, item_titles
from simulation.population import Population, SimulatedOrders

TABLES_FOLDER = "tables"
LATE_ORDER_SHARE, MAX_DELAY_DAYS = (
    0.15,
    3,
)  # share of the orders that reach the shop's systems late, and by how many days at most
ORDER_COLUMNS = ("order_id", "user_id", "item_id", "ts", "quantity", "price", "ingested_at")


class OrderArrival(NamedTuple):
    """A checkout that reaches the shop's systems: its lines, and what of them a slate led to."""

    checkout: Checkout
    attributed_lines: list[tuple[str, Line]]  # (request_id of the slate, the line)


class SimulatedShop:
    """The shop's files below `folder`, which is made anew."""

    def __init__(self, folder: Path, crowd: Population) -> None:
        self.tables_folder = folder / TABLES_FOLDER
        self.tables_folder.mkdir(parents=True)
        self.population = crowd
        self.titles = item_titles(crowd.items)
        self.store: Store | None = None  # that serving asks: what arrives from then on enters it too
        self.rng = np.random.default_rng([crowd.cfg["seed"], 3])
        self.order_columns: dict[str, list[Any]] = {name: [] for name in ORDER_COLUMNS}  # of orders.parquet
        self.arrivals_by_day: dict[int, list[OrderArrival]] = defaultdict(list)  # by day
        self.last_request_id: dict[int, str] = {}  # user → request_id of the last slate
        self.n_orders = 0
        pq.write_table(
            pa.table({"user_id": np.arange(crowd.n_users).astype(str)}), self.tables_folder / "users.parquet"
        )

    def make_checkouts(self, day: int, orders: SimulatedOrders) -> list[Checkout]:
        """The checkouts of a day. Their lines reach tables and store today, or some days late."""
        first = np.searchsorted(orders.line_order, np.arange(len(orders.user) + 1))
        delay = np.where(
            self.rng.random(len(orders.user)) < LATE_ORDER_SHARE, self.rng.integers(1, MAX_DELAY_DAYS + 1), 0
        )
        found = []
        for k, (user, ts) in enumerate(zip(orders.user.tolist(), orders.ts.tolist(), strict=True)):
            some = range(first[k], first[k + 1])
            lines = [
                Line(str(orders.item[m]), float(orders.quantity[m]), float(orders.price[m])) for m in some
            ]
            bought = [
                (self.last_request_id[user], line)
                for m, line in zip(some, lines, strict=True)
                if orders.from_slate[m]
            ]
            found.append(Checkout(str(user), lines, ts, order_id=str(self.n_orders)))
            self.arrivals_by_day[day + int(delay[k])].append(OrderArrival(found[-1], bought))
            self.n_orders += 1
        return found

    def make_rule_slate(self, orders: SimulatedOrders, k: int) -> Slate:
        """What the shop's old rules show after order k."""
        goods = self.population.items
        items = tuple(
            Item(str(i), self.titles[i], LEAVES[goods.leaf[i]], float(goods.price[i]), None, None, None,
                 ("rules",), float(chance))
            for i, chance in zip(orders.rule_slate[k].tolist(), orders.rule_propensity[k], strict=True)
        )  # fmt: skip
        return Slate(items, "ranked", "", {"total": 0.0}, f"before-{self.n_orders}-{k}", "rules")

    def end_day(
        self,
        day: int,
        orders: SimulatedOrders,
        checkouts: list[Checkout],
        slates: list[Slate],
        clicked: Array,
    ) -> float:
        """Log slates, clicks and what arrived today; returns what was spent on items that slates led to."""
        log, spent = ImpressionLog(self.tables_folder / "events", capacity=8 * len(slates) + 10_000), 0.0
        for k, (checkout, slate) in enumerate(zip(checkouts, slates, strict=True)):
            log.log_slate(checkout, slate)
            self.last_request_id[int(orders.user[k])] = slate.request_id
            clicks = [
                Event(slate.items[slot].item_id, int(orders.ts[k]) + 60 + int(slot), "click")
                for slot in np.flatnonzero(clicked[k])
            ]
            for click in clicks:
                log.log_feedback("click", slate.request_id, click.item_id, click.ts)
            if clicks and self.store is not None:
                self.store.append(str(checkout.user_id), clicks)
        for arrival in self.arrivals_by_day.pop(day, []):
            spent += self._ingest(arrival, day, log)
        log.close()
        self._write(day)
        return spent

    def _ingest(self, arrival: OrderArrival, day: int, log: ImpressionLog) -> float:
        checkout, spent = arrival.checkout, 0.0
        user, ts = str(checkout.user_id), int(checkout.ts or 0)
        if self.store is not None:
            self.store.append(user, purchase_events(checkout, ts), idempotency_key=checkout.order_id)
        known = max(ts, SIMULATION_START + day * SECONDS_PER_DAY)
        for line in checkout.basket:
            values = (checkout.order_id, user, line.item_id, ts, line.quantity, line.price, known)
            for name, value in zip(ORDER_COLUMNS, values, strict=True):
                self.order_columns[name].append(value)
        for request_id, line in arrival.attributed_lines:
            value = line.quantity * float(line.price or 0)
            log.log_feedback("purchase", request_id, line.item_id, ts, value=value)
            spent += value
        return spent

    def _write(self, day: int) -> None:
        """The tables as of the end of a day: all lines that have arrived, all items that have."""
        goods, end = self.population.items, SIMULATION_START + (day + 1) * SECONDS_PER_DAY
        there = goods.created_at < end
        pq.write_table(pa.table(self.order_columns), self.tables_folder / "orders.parquet")
        columns = {
            "item_id": np.arange(len(there)).astype(str),
            "title": np.array(self.titles),
            "category": np.array(LEAVES)[goods.leaf],
            "brand": np.array(BRANDS)[goods.brand],
            "price": goods.price,
            "margin": goods.margin,
            "created_at": goods.created_at,
        }
        pq.write_table(
            pa.table({name: column[there] for name, column in columns.items()}),
            self.tables_folder / "items.parquet",
        )


def copy_with_shuffled_labels(tables: Path, to: Path, seed: int) -> Path:
    """A copy of the shop's tables in which labels are shuffled among the items of every slate."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(tables, to, ignore=shutil.ignore_patterns("events"))
    rng = np.random.default_rng(seed)
    events = pq.read_table(tables / "events")
    request, item, kind = (events[name].to_pylist() for name in ("request_id", "item_id", "kind"))
    slates: dict[str, list[str]] = defaultdict(list)
    for asked, shown, what in zip(request, item, kind, strict=True):
        if what == "impression":
            slates[asked].append(shown)
    other = {
        asked: dict(zip(some, rng.permutation(some).tolist(), strict=True)) for asked, some in slates.items()
    }
    moved = [
        shown if what == "impression" else other[asked].get(shown, shown)
        for asked, shown, what in zip(request, item, kind, strict=True)
    ]
    (to / "events").mkdir()
    place = events.schema.get_field_index("item_id")
    pq.write_table(events.set_column(place, "item_id", pa.array(moved)), to / "events" / "all.parquet")
    return to
