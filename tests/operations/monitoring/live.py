"""Two months of a live shop that the real recommender answers, with faults where they are planted."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving import Checkout, Event, ImpressionLog, Item, Line, Recommender, Slate
from serving.batch.recommend import recommend_batch
from tests.data.shop import DAY, START, iso, write_csv

SINCE = START + 90 * DAY  # what comes before is in the bundle
LIVE = 50  # days of the log
CLICK_AFTER, BUY_AFTER = 3 * 3600, 2 * DAY  # mean seconds

Tables = dict[str, list[dict[str, Any]]]


class Outcome(NamedTuple):
    """A click or purchase of an item that was shown."""

    checkout: Checkout
    kind: str
    request_id: str
    item_id: str
    ts: int
    value: float | None


class Life(NamedTuple):
    """What happened: the canonical tables with what was bought, checkouts by time, and what came of them."""

    tables: Tables
    checkouts: list[Checkout]
    slates: list[Slate]
    outcomes: list[Outcome]


def live(
    recommender: Recommender, tables: Tables,
    sent: Callable[[Checkout, Checkout | None], Checkout] = lambda one, last: one,
    examined: Callable[[int], float] = lambda position: 1.0, seed: int = 0,
) -> Life:  # fmt: skip
    """Every order of the live days asks, and an item of its slate is clicked and bought with the very
    probabilities that the slate has. What is bought is an order, which later ones remember.

    Args:
        sent: what the shop sends for a checkout, given the user's one before.
        examined: the chance that a position is looked at.
    """
    rng = np.random.default_rng(seed)
    past, rounds = _orders(tables)
    last: dict[str | None, Checkout] = {}
    asked, slates, came, bought = [], [], [], []
    for turn in rounds:  # the first live order of every user, then the second, ...
        now = [replace(one, history=[e for e in past[one.user_id] if e.ts < (one.ts or 0)]) for one in turn]
        shown = recommend_batch(recommender, [sent(one, last.get(one.user_id)) for one in now])
        for one, slate in zip(now, shown, strict=True):
            slate = replace(slate, request_id=f"request of {one.order_id}")
            asked.append(one)
            slates.append(slate)
            last[one.user_id] = one
            for place, item in enumerate(slate.items, start=1):
                for outcome in _outcomes(rng, one, slate.request_id, item, examined(place)):
                    came.append(outcome)
                    if outcome.kind == "purchase":
                        past[one.user_id].append(Event(item.item_id, outcome.ts, "purchase", 1.0, item.price))
                        bought.append(_line(f"{one.order_id} {place}", one, outcome))
    by_time = sorted(range(len(asked)), key=lambda k: asked[k].ts or 0)
    return Life(
        {**tables, "orders": tables["orders"] + bought},
        [asked[k] for k in by_time], [slates[k] for k in by_time], came,
    )  # fmt: skip


def _orders(tables: Tables) -> tuple[dict[str | None, list[Event]], list[list[Checkout]]]:
    """What each user bought by itself, and the live checkouts: a list for the n-th of each user."""
    people = {row["user_id"]: {k: v for k, v in row.items() if k != "user_id"} for row in tables["users"]}
    orders: dict[str, list[dict[str, Any]]] = {}
    for row in tables["orders"]:
        orders.setdefault(row["order_id"], []).append(row)
    past: dict[str | None, list[Event]] = {}
    rounds: list[list[Checkout]] = []
    turn: dict[str, int] = {}
    for order, rows in orders.items():
        user, ts = rows[0]["user_id"], int(datetime.fromisoformat(rows[0]["ts"]).timestamp())
        lines = [Line(row["item_id"], float(row["quantity"]), row["price"]) for row in rows]
        past.setdefault(user, [])
        past[user] += [Event(line.item_id, ts, "purchase", line.quantity, line.price) for line in lines]
        if ts >= SINCE:
            turn[user] = turn.get(user, -1) + 1
            rounds += [[]] * (turn[user] == len(rounds))
            context, profile = {"device": rows[0]["device"]}, people.get(user, {})
            one = Checkout(user, lines, ts, context=context, profile=profile, order_id=order)
            rounds[turn[user]] = [*rounds[turn[user]], one]
    return past, rounds


def _outcomes(
    rng: np.random.Generator, one: Checkout, request: str, item: Item, examined: float
) -> Iterator[Outcome]:
    assert one.ts is not None
    assert item.click is not None
    assert item.purchase is not None
    if rng.random() < item.click * examined:
        at = one.ts + 30 + int(min(rng.exponential(CLICK_AFTER), 0.9 * DAY))
        yield Outcome(one, "click", request, item.item_id, at, None)
        if rng.random() < item.purchase / item.click:
            at += 60 + int(min(rng.exponential(BUY_AFTER), 12 * DAY))
            yield Outcome(one, "purchase", request, item.item_id, at, item.price)


def _line(order: str, one: Checkout, outcome: Outcome) -> dict[str, Any]:
    return {
        "order_id": order, "user_id": one.user_id, "item_id": outcome.item_id, "ts": iso(outcome.ts),
        "quantity": 1, "price": outcome.value, "device": one.context["device"],
    }  # fmt: skip


def write(folder: Path, life: Life, until: int = SINCE + LIVE * DAY) -> Path:
    """The shop's tables and, in `events/`, the impression log of what was shown and came until an instant."""
    for name in ("orders", "items", "users"):
        write_csv(folder / f"{name}.csv", life.tables[name])
    log = ImpressionLog(folder / "events", capacity=1_000_000)
    for one, slate in zip(life.checkouts, life.slates, strict=True):
        log.log_slate(one, slate)
    for outcome in life.outcomes:
        if outcome.ts < until:
            log.log_feedback(
                outcome.kind, outcome.request_id, outcome.item_id, outcome.ts, value=outcome.value
            )
    log.close()
    assert log.dropped_count == 0
    return folder


def slower(life: Life, factor: int) -> Life:
    """The same, with feedback that takes so many times as long."""
    return life._replace(
        outcomes=[o._replace(ts=(t := o.checkout.ts or 0) + factor * (o.ts - t)) for o in life.outcomes]
    )


def leaking(life: Life) -> Life:
    """The same, but the table dates what a slate led to an hour before its checkout."""
    ts = {one.order_id: one.ts or 0 for one in life.checkouts}
    rows = [
        row if (order := row["order_id"].partition(" ")[0]) == row["order_id"]
        else {**row, "ts": iso(ts[order] - 3600)}
        for row in life.tables["orders"]
    ]  # fmt: skip
    return life._replace(tables={**life.tables, "orders": rows})


def newcomers(tables: Tables, share: float, seed: int = 1) -> Tables:
    """The same orders, of which a share of the live ones are made by users who were never there."""
    rng = np.random.default_rng(seed)
    live_ones = dict.fromkeys(r["order_id"] for r in tables["orders"] if r["ts"] >= iso(SINCE))
    fresh = {order for order in live_ones if rng.random() < share}
    rows = [
        {**row, "user_id": f"new {row['order_id']}"} if row["order_id"] in fresh else row
        for row in tables["orders"]
    ]
    return {**tables, "orders": rows}


def aged(one: Checkout, days: float) -> Checkout:
    """With a history that ends some days before."""
    until = (one.ts or 0) - days * DAY
    return replace(one, history=[event for event in one.history or () if event.ts < until])
