"""Fifty days of a live shop that the real recommender answers, with planted faults."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from serving import Checkout, Event, ImpressionLog, Item, Line, Recommender, Slate
from serving.batch.recommend import recommend_batch
from tests.data.shop import DAY, START, iso, write_csv

LIVE_START = START + 90 * DAY  # the end of the bundle's data
LIVE_DAYS = 50  # of the log
MEAN_CLICK_DELAY, MEAN_PURCHASE_DELAY = 3 * 3600, 2 * DAY  # seconds

Tables = dict[str, list[dict[str, Any]]]


class Outcome(NamedTuple):
    """A click or purchase of an impression."""

    checkout: Checkout
    kind: str
    request_id: str
    item_id: str
    ts: int
    value: float | None


class LiveShop(NamedTuple):
    """The canonical tables with purchases from slates, checkouts by time, their slates, and outcomes."""

    tables: Tables
    checkouts: list[Checkout]
    slates: list[Slate]
    outcomes: list[Outcome]


def simulate(
    recommender: Recommender, tables: Tables,
    perturb: Callable[[Checkout, Checkout | None], Checkout] = lambda checkout, previous: checkout,
    examination_probability: Callable[[int], float] = lambda position: 1.0, seed: int = 0,
) -> LiveShop:  # fmt: skip
    """Answer every order of the live days; draw clicks and purchases with the slate's own probabilities.

    A purchase becomes an order, which enters the histories of later checkouts.

    Args:
        perturb: the checkout that the shop sends, given the true one and the user's previous one.
        examination_probability: of a position.
    """
    rng = np.random.default_rng(seed)
    past, rounds = _live_checkouts(tables)
    previous: dict[str | None, Checkout] = {}
    checkouts, slates, outcomes, order_rows = [], [], [], []
    for round_checkouts in rounds:  # the first live order of every user, then the second, ...
        true_checkouts = [
            replace(checkout, history=[e for e in past[checkout.user_id] if e.ts < (checkout.ts or 0)])
            for checkout in round_checkouts
        ]
        sent = [perturb(checkout, previous.get(checkout.user_id)) for checkout in true_checkouts]
        for checkout, slate in zip(true_checkouts, recommend_batch(recommender, sent), strict=True):
            slate = replace(slate, request_id=f"request of {checkout.order_id}")
            checkouts.append(checkout)
            slates.append(slate)
            previous[checkout.user_id] = checkout
            for position, item in enumerate(slate.items, start=1):
                p_examined = examination_probability(position)
                for outcome in _outcomes(rng, checkout, slate.request_id, item, p_examined):
                    outcomes.append(outcome)
                    if outcome.kind == "purchase":
                        event = Event(item.item_id, outcome.ts, "purchase", 1.0, item.price)
                        past[checkout.user_id].append(event)
                        order_rows.append(_order_row(f"{checkout.order_id} {position}", checkout, outcome))
    by_time = sorted(range(len(checkouts)), key=lambda k: checkouts[k].ts or 0)
    return LiveShop(
        {**tables, "orders": tables["orders"] + order_rows},
        [checkouts[k] for k in by_time], [slates[k] for k in by_time], outcomes,
    )  # fmt: skip


def _live_checkouts(tables: Tables) -> tuple[dict[str | None, list[Event]], list[list[Checkout]]]:
    """Each user's purchases, and the live checkouts: a list for the n-th of each user."""
    profiles = {row["user_id"]: {k: v for k, v in row.items() if k != "user_id"} for row in tables["users"]}
    orders: dict[str, list[dict[str, Any]]] = {}
    for row in tables["orders"]:
        orders.setdefault(row["order_id"], []).append(row)
    past: dict[str | None, list[Event]] = {}
    rounds: list[list[Checkout]] = []
    round_of_user: dict[str, int] = {}
    for order, rows in orders.items():
        user, ts = rows[0]["user_id"], int(datetime.fromisoformat(rows[0]["ts"]).timestamp())
        lines = [Line(row["item_id"], float(row["quantity"]), row["price"]) for row in rows]
        past.setdefault(user, [])
        past[user] += [Event(line.item_id, ts, "purchase", line.quantity, line.price) for line in lines]
        if ts >= LIVE_START:
            number = round_of_user[user] = round_of_user.get(user, -1) + 1
            rounds += [[]] * (number == len(rounds))
            context, profile = {"device": rows[0]["device"]}, profiles.get(user, {})
            checkout = Checkout(user, lines, ts, context=context, profile=profile, order_id=order)
            rounds[number] = [*rounds[number], checkout]
    return past, rounds


def _outcomes(
    rng: np.random.Generator, checkout: Checkout, request: str, item: Item, p_examined: float
) -> Iterator[Outcome]:
    assert checkout.ts is not None
    assert item.click is not None
    assert item.purchase is not None
    if rng.random() < item.click * p_examined:
        ts = checkout.ts + 30 + int(min(rng.exponential(MEAN_CLICK_DELAY), 0.9 * DAY))
        yield Outcome(checkout, "click", request, item.item_id, ts, None)
        if rng.random() < item.purchase / item.click:
            ts += 60 + int(min(rng.exponential(MEAN_PURCHASE_DELAY), 12 * DAY))
            yield Outcome(checkout, "purchase", request, item.item_id, ts, item.price)


def _order_row(order: str, checkout: Checkout, outcome: Outcome) -> dict[str, Any]:
    return {
        "order_id": order, "user_id": checkout.user_id, "item_id": outcome.item_id, "ts": iso(outcome.ts),
        "quantity": 1, "price": outcome.value, "device": checkout.context["device"],
    }  # fmt: skip


def write(folder: Path, shop: LiveShop, end: int = LIVE_START + LIVE_DAYS * DAY) -> Path:
    """Write the shop's tables and, in `events/`, the impression log with outcomes before an instant."""
    for name in ("orders", "items", "users"):
        write_csv(folder / f"{name}.csv", shop.tables[name])
    log = ImpressionLog(folder / "events", capacity=1_000_000)
    for checkout, slate in zip(shop.checkouts, shop.slates, strict=True):
        log.log_slate(checkout, slate)
    for outcome in shop.outcomes:
        if outcome.ts < end:
            log.log_feedback(
                outcome.kind, outcome.request_id, outcome.item_id, outcome.ts, value=outcome.value
            )
    log.close()
    assert log.dropped_count == 0
    return folder


def with_slower_feedback(shop: LiveShop, factor: int) -> LiveShop:
    """The same shop with feedback delays multiplied by a factor."""
    return shop._replace(
        outcomes=[o._replace(ts=(t := o.checkout.ts or 0) + factor * (o.ts - t)) for o in shop.outcomes]
    )


def with_leaked_labels(shop: LiveShop) -> LiveShop:
    """The same shop, but its table dates purchases from a slate an hour before their checkout."""
    ts = {checkout.order_id: checkout.ts or 0 for checkout in shop.checkouts}
    rows = [
        row if (order := row["order_id"].partition(" ")[0]) == row["order_id"]
        else {**row, "ts": iso(ts[order] - 3600)}
        for row in shop.tables["orders"]
    ]  # fmt: skip
    return shop._replace(tables={**shop.tables, "orders": rows})


def with_new_users(tables: Tables, share: float, seed: int = 1) -> Tables:
    """The same orders, but new users make a share of the live ones."""
    rng = np.random.default_rng(seed)
    live_orders = dict.fromkeys(r["order_id"] for r in tables["orders"] if r["ts"] >= iso(LIVE_START))
    new_user_orders = {order for order in live_orders if rng.random() < share}
    rows = [
        {**row, "user_id": f"new {row['order_id']}"} if row["order_id"] in new_user_orders else row
        for row in tables["orders"]
    ]
    return {**tables, "orders": rows}


def with_stale_history(checkout: Checkout, days: float) -> Checkout:
    """The checkout with a history that ends `days` before it."""
    end = (checkout.ts or 0) - days * DAY
    return replace(checkout, history=[event for event in checkout.history or () if event.ts < end])
