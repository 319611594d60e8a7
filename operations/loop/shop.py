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
from serving.stores.base import purchases_of
from simulation import market
from simulation.market import DAY, LEAVES, START, Array
from simulation.population import Crowd, Orders

TABLES = "tables"
LATE, LATEST = 0.15, 3  # share of the orders that reach the shop's systems late, and by how many days at most
COLUMNS = ("order_id", "user_id", "item_id", "ts", "quantity", "price", "ingested_at")


class Arrival(NamedTuple):
    """A checkout that reaches the shop's systems: its lines, and what of them a slate led to."""

    checkout: Checkout
    bought: list[tuple[str, Line]]  # (request_id of the slate, the line)


class Shop:
    """The shop's files below `folder`, which is made anew."""

    def __init__(self, folder: Path, crowd: Crowd) -> None:
        self.tables = folder / TABLES
        self.tables.mkdir(parents=True)
        self.crowd = crowd
        self.titles = market.titles(crowd.goods)
        self.store: Store | None = None  # that serving asks: what arrives from then on enters it too
        self.rng = np.random.default_rng([crowd.cfg["seed"], 3])
        self.columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}  # of orders.parquet
        self.arriving: dict[int, list[Arrival]] = defaultdict(list)  # by day
        self.shown: dict[int, str] = {}  # user → request_id of the last slate
        self.orders = 0
        pq.write_table(
            pa.table({"user_id": np.arange(crowd.users).astype(str)}), self.tables / "users.parquet"
        )

    def checkouts(self, day: int, orders: Orders) -> list[Checkout]:
        """The checkouts of a day. Their lines reach tables and store today, or some days late."""
        first = np.searchsorted(orders.row, np.arange(len(orders.user) + 1))
        delay = np.where(self.rng.random(len(orders.user)) < LATE, self.rng.integers(1, LATEST + 1), 0)
        found = []
        for k, (user, ts) in enumerate(zip(orders.user.tolist(), orders.ts.tolist(), strict=True)):
            some = range(first[k], first[k + 1])
            lines = [
                Line(str(orders.item[m]), float(orders.quantity[m]), float(orders.price[m])) for m in some
            ]
            bought = [
                (self.shown[user], line) for m, line in zip(some, lines, strict=True) if orders.follows[m]
            ]
            found.append(Checkout(str(user), lines, ts, order_id=str(self.orders)))
            self.arriving[day + int(delay[k])].append(Arrival(found[-1], bought))
            self.orders += 1
        return found

    def usual(self, orders: Orders, k: int) -> Slate:
        """What the shop's old rules show after order k."""
        goods = self.crowd.goods
        items = tuple(
            Item(str(i), self.titles[i], LEAVES[goods.leaf[i]], float(goods.price[i]), None, None, None,
                 ("rules",), float(chance))
            for i, chance in zip(orders.usual[k].tolist(), orders.propensity[k], strict=True)
        )  # fmt: skip
        return Slate(items, "ranked", "", {"total": 0.0}, f"before-{self.orders}-{k}", "rules")

    def end_day(
        self, day: int, orders: Orders, checkouts: list[Checkout], slates: list[Slate], clicked: Array
    ) -> float:
        """Log slates, clicks and what arrived today; returns what was spent on items that slates led to."""
        log, spent = ImpressionLog(self.tables / "events", capacity=8 * len(slates) + 10_000), 0.0
        for k, (checkout, slate) in enumerate(zip(checkouts, slates, strict=True)):
            log.slate(checkout, slate)
            self.shown[int(orders.user[k])] = slate.request_id
            clicks = [
                Event(slate.items[slot].item_id, int(orders.ts[k]) + 60 + int(slot), "click")
                for slot in np.flatnonzero(clicked[k])
            ]
            for click in clicks:
                log.feedback("click", slate.request_id, click.item_id, click.ts)
            if clicks and self.store is not None:
                self.store.append(str(checkout.user_id), clicks)
        for arrival in self.arriving.pop(day, []):
            spent += self._arrive(arrival, day, log)
        log.close()
        self._write(day)
        return spent

    def _arrive(self, arrival: Arrival, day: int, log: ImpressionLog) -> float:
        checkout, spent = arrival.checkout, 0.0
        user, ts = str(checkout.user_id), int(checkout.ts or 0)
        if self.store is not None:
            self.store.append(user, purchases_of(checkout, ts), key=checkout.order_id)
        known = max(ts, START + day * DAY)
        for line in checkout.basket:
            values = (checkout.order_id, user, line.item_id, ts, line.quantity, line.price, known)
            for name, value in zip(COLUMNS, values, strict=True):
                self.columns[name].append(value)
        for request_id, line in arrival.bought:
            value = line.quantity * float(line.price or 0)
            log.feedback("purchase", request_id, line.item_id, ts, value=value)
            spent += value
        return spent

    def _write(self, day: int) -> None:
        """The tables as of the end of a day: all lines that have arrived, all items that have."""
        goods, end = self.crowd.goods, START + (day + 1) * DAY
        there = goods.created < end
        pq.write_table(pa.table(self.columns), self.tables / "orders.parquet")
        columns = {
            "item_id": np.arange(len(there)).astype(str),
            "title": np.array(self.titles),
            "category": np.array(LEAVES)[goods.leaf],
            "brand": np.array(market.BRANDS)[goods.brand],
            "price": goods.price,
            "margin": goods.margin,
            "created_at": goods.created,
        }
        pq.write_table(
            pa.table({name: column[there] for name, column in columns.items()}), self.tables / "items.parquet"
        )


def poisoned(tables: Path, to: Path, seed: int) -> Path:
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
