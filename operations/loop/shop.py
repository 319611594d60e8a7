"""The simulated shop: its tables on disk, its event store and its impression log.

    orders of a day ─▶ a slate each ─▶ events/     (impressions and clicks, as they happen)
          ╰─ arrive, some days late ─▶ orders.parquet, store, and purchases in events/

Training reads everything from the folder `tables`, like the tables of any shop (`data=tables`).
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
LATE_ORDER_SHARE, MAX_DELAY_DAYS = 0.15, 3  # share and longest delay of late orders
CLICK_DELAY_SECONDS = 60  # from the checkout to a click on the first slot
RULE_POLICY = "rule_policy"  # candidate source and bundle version of the rule policy's slates
ORDER_COLUMNS = ("order_id", "user_id", "item_id", "ts", "quantity", "price", "ingested_at")


class OrderArrival(NamedTuple):
    """A checkout that reaches the shop's systems, with the lines that a slate led to."""

    checkout: Checkout
    attributed_lines: list[tuple[str, Line]]  # (request_id of the slate, line)


class SimulatedShop:
    """The shop's files below `folder`. The folder must not hold a shop yet."""

    def __init__(self, folder: Path, population: Population) -> None:
        self.tables_folder = folder / TABLES_FOLDER
        self.tables_folder.mkdir(parents=True)
        self.population = population
        self.titles = item_titles(population.items)
        self.store: Store | None = None  # once set, it gets the orders and clicks
        self.rng = np.random.default_rng([population.cfg["seed"], 3])
        self.order_columns: dict[str, list[Any]] = {name: [] for name in ORDER_COLUMNS}  # of orders.parquet
        self.arrivals_by_day: dict[int, list[OrderArrival]] = defaultdict(list)
        self.last_request_id: dict[int, str] = {}  # user → request_id of the last slate
        self.n_orders = 0
        users = pa.table({"user_id": np.arange(population.n_users).astype(str)})
        pq.write_table(users, self.tables_folder / "users.parquet")

    def make_checkouts(self, day: int, orders: SimulatedOrders) -> list[Checkout]:
        """Return the checkouts of a day.

        Their lines reach tables and store on that day, or some days late.
        """
        line_offsets = np.searchsorted(orders.line_order, np.arange(len(orders.user) + 1))
        is_late = self.rng.random(len(orders.user)) < LATE_ORDER_SHARE
        delay = np.where(is_late, self.rng.integers(1, MAX_DELAY_DAYS + 1), 0)
        checkouts = []
        for row, (user, ts) in enumerate(zip(orders.user.tolist(), orders.ts.tolist(), strict=True)):
            line_rows = range(line_offsets[row], line_offsets[row + 1])
            lines = [
                Line(str(orders.item[k]), float(orders.quantity[k]), float(orders.price[k]))
                for k in line_rows
            ]
            attributed_lines = [
                (self.last_request_id[user], line)
                for k, line in zip(line_rows, lines, strict=True)
                if orders.from_slate[k]
            ]
            checkout = Checkout(str(user), lines, ts, order_id=str(self.n_orders))
            checkouts.append(checkout)
            self.arrivals_by_day[day + int(delay[row])].append(OrderArrival(checkout, attributed_lines))
            self.n_orders += 1
        return checkouts

    def make_rule_slate(self, orders: SimulatedOrders, row: int) -> Slate:
        """Return the rule policy's slate after the order in this row."""
        catalog = self.population.items
        items = tuple(
            Item(
                item_id=str(item),
                title=self.titles[item],
                category=LEAVES[catalog.leaf[item]],
                price=float(catalog.price[item]),
                click=None,
                purchase=None,
                value=None,
                sources=(RULE_POLICY,),
                propensity=float(propensity),
            )
            for item, propensity in zip(
                orders.rule_slate[row].tolist(), orders.rule_propensity[row], strict=True
            )
        )
        request_id = f"rules-{self.n_orders}-{row}"
        return Slate(items, "ranked", "", {"total": 0.0}, request_id, RULE_POLICY)

    def end_day(
        self,
        day: int,
        orders: SimulatedOrders,
        checkouts: list[Checkout],
        slates: list[Slate],
        clicked: Array,
    ) -> float:
        """Log the day's slates, clicks and arrivals; return the spend attributed to slates."""
        log = ImpressionLog(self.tables_folder / "events", capacity=8 * len(slates) + 10_000)
        for row, (checkout, slate) in enumerate(zip(checkouts, slates, strict=True)):
            log.log_slate(checkout, slate)
            self.last_request_id[int(orders.user[row])] = slate.request_id
            first_click_ts = int(orders.ts[row]) + CLICK_DELAY_SECONDS
            clicks = [
                Event(slate.items[slot].item_id, first_click_ts + int(slot), "click")
                for slot in np.flatnonzero(clicked[row])
            ]
            for click in clicks:
                log.log_feedback("click", slate.request_id, click.item_id, click.ts)
            if clicks and self.store is not None:
                self.store.append(str(checkout.user_id), clicks)
        attributed_spend = 0.0
        for arrival in self.arrivals_by_day.pop(day, []):
            attributed_spend += self._ingest(arrival, day, log)
        log.close()
        self._write_tables(day)
        return attributed_spend

    def _ingest(self, arrival: OrderArrival, day: int, log: ImpressionLog) -> float:
        """Add an order to store, tables and log; return the order's spend that is attributed to slates."""
        checkout, attributed_spend = arrival.checkout, 0.0
        user, ts = str(checkout.user_id), int(checkout.ts or 0)
        if self.store is not None:
            self.store.append(user, purchase_events(checkout, ts), idempotency_key=checkout.order_id)
        ingested_at = max(ts, SIMULATION_START + day * SECONDS_PER_DAY)
        for line in checkout.basket:
            values = (checkout.order_id, user, line.item_id, ts, line.quantity, line.price, ingested_at)
            for name, value in zip(ORDER_COLUMNS, values, strict=True):
                self.order_columns[name].append(value)
        for request_id, line in arrival.attributed_lines:
            spend = line.quantity * float(line.price or 0)
            log.log_feedback("purchase", request_id, line.item_id, ts, value=spend)
            attributed_spend += spend
        return attributed_spend

    def _write_tables(self, day: int) -> None:
        """Write the tables as of the end of a day: all lines and items that have arrived."""
        catalog, end = self.population.items, SIMULATION_START + (day + 1) * SECONDS_PER_DAY
        is_available = catalog.created_at < end
        pq.write_table(pa.table(self.order_columns), self.tables_folder / "orders.parquet")
        columns = {
            "item_id": np.arange(len(is_available)).astype(str),
            "title": np.array(self.titles),
            "category": np.array(LEAVES)[catalog.leaf],
            "brand": np.array(BRANDS)[catalog.brand],
            "price": catalog.price,
            "margin": catalog.margin,
            "created_at": catalog.created_at,
        }
        if self.population.market is not None:
            columns["available"] = self.population.market.sellable
        pq.write_table(
            pa.table({name: column[is_available] for name, column in columns.items()}),
            self.tables_folder / "items.parquet",
        )


def copy_with_shuffled_labels(tables: Path, copy: Path, seed: int) -> Path:
    """Copy the shop's tables, and shuffle the labels among the items of every slate."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tables, copy, ignore=shutil.ignore_patterns("events"))
    rng = np.random.default_rng(seed)
    events = pq.read_table(tables / "events")
    columns = [events[name].to_pylist() for name in ("request_id", "item_id", "kind")]
    slates: dict[str, list[str]] = defaultdict(list)
    for request, item, kind in zip(*columns, strict=True):
        if kind == "impression":
            slates[request].append(item)
    permutations = {
        request: dict(zip(items, rng.permutation(items).tolist(), strict=True))
        for request, items in slates.items()
    }
    shuffled = [
        item if kind == "impression" else permutations[request].get(item, item)
        for request, item, kind in zip(*columns, strict=True)
    ]
    (copy / "events").mkdir()
    column = events.schema.get_field_index("item_id")
    pq.write_table(events.set_column(column, "item_id", pa.array(shuffled)), copy / "events" / "all.parquet")
    return copy
