"""A shop in which a bundle answered and explored, shoppers clicked by a known rule, and all was logged."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from serving import Checkout, Event, ImpressionLog, Line, Recommender, Slate, open_store
from tests.data.shop import write_shop

SEEN = np.array([1.0, 0.8, 0.7, 0.6, 0.5, 0.4])
DAYS = 200  # the bundle's own data end after 90 of them
PRICE = 5.0


class Shop(NamedTuple):
    folder: Path
    store: Path  # what the bundle knew of its users
    slates: dict[str, Slate]  # by order_id
    clicked: set[tuple[str, str]]  # (order_id, item_id)
    bought: set[tuple[str, str]]


def liking(user: str, item: str) -> float:
    """p(click | seen), from 0.1 to 0.9: a rule that no model knows."""
    return 0.1 + 0.8 * hashlib.blake2b(f"{user} {item}".encode(), digest_size=1).digest()[0] / 255


@pytest.fixture(scope="session")
def shop(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Every checkout after the bundle's data was answered by it; half of the last slots explored."""
    folder = write_shop(tmp_path_factory.mktemp("judged") / "shop", users=40, items=80, days=DAYS)
    orders = pd.read_csv(folder / "orders.csv", dtype={"order_id": str})
    orders["ts"] = [int(datetime.fromisoformat(ts).timestamp()) for ts in orders["ts"]]
    store, known = open_store(folder.parent / "store.db"), {}
    for user, lines in orders.sort_values("ts", kind="stable").groupby("user_id"):
        columns = (lines[c].tolist() for c in ("item_id", "ts", "quantity", "price"))
        known[user] = [Event(i, ts, "purchase", q, p) for i, ts, q, p in zip(*columns, strict=True)]
        store.append(user, known[user])
    champion = Recommender.load(version)  # histories come along: a store may be late on a busy machine
    champion.exploration_rate, champion.rng = 0.5, np.random.default_rng(0)
    end, rng = champion.bundle.manifest["data"]["window"]["end"], np.random.default_rng(1)
    made = Shop(folder, folder.parent / "store.db", {}, set(), set())
    log = ImpressionLog(folder / "events")
    for order, lines in orders[orders["ts"] >= end].groupby("order_id"):
        user, ts, device = (lines[c].tolist()[0] for c in ("user_id", "ts", "device"))
        columns = (lines[c].tolist() for c in ("item_id", "quantity", "price"))
        basket = [Line(*line) for line in zip(*columns, strict=True)]
        checkout = Checkout(user, basket, ts, known[user], context={"device": device}, order_id=order)
        slate = champion.recommend(checkout, deadline_ms=10_000)
        log.log_slate(checkout, slate)
        made.slates[order] = slate
        for slot, item in enumerate(slate.items):
            if rng.random() < SEEN[slot] * liking(user, item.item_id):
                log.log_feedback("click", slate.request_id, item.item_id, ts + 60)
                made.clicked.add((order, item.item_id))
                if rng.random() < 0.5:
                    log.log_feedback("purchase", slate.request_id, item.item_id, ts + 120, value=PRICE)
                    made.bought.add((order, item.item_id))
    log.close()
    return made
