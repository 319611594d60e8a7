"""A shop where a bundle answers and explores, shoppers click by a known rule, and all is logged."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from serving import Checkout, Event, ImpressionLog, Line, Recommender, Slate, open_store
from tests.data.shop import write_shop

EXAMINATION_PROBABILITY = np.array([1.0, 0.8, 0.7, 0.6, 0.5, 0.4])
DAYS = 200  # the bundle's own data end after 90 of them
PRICE = 5.0


class Shop(NamedTuple):
    folder: Path
    store: Path  # the histories that the bundle read
    slates: dict[str, Slate]  # by order_id
    clicked: set[tuple[str, str]]  # (order_id, item_id)
    bought: set[tuple[str, str]]


def true_p_click(user: str, item: str) -> float:
    """p(click | examined), from 0.1 to 0.9: a rule that no model knows."""
    return 0.1 + 0.8 * hashlib.blake2b(f"{user} {item}".encode(), digest_size=1).digest()[0] / 255


@pytest.fixture(scope="session")
def shop(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A bundle answers every checkout after its data; half of the last slots explore."""
    folder = write_shop(tmp_path_factory.mktemp("logged") / "shop", users=40, items=80, days=DAYS)
    orders = pd.read_csv(folder / "orders.csv", dtype={"order_id": str})
    orders["ts"] = [int(datetime.fromisoformat(ts).timestamp()) for ts in orders["ts"]]
    store, histories = open_store(folder.parent / "store.db"), {}
    for user, lines in orders.sort_values("ts", kind="stable").groupby("user_id"):
        columns = (lines[c].tolist() for c in ("item_id", "ts", "quantity", "price"))
        histories[user] = [Event(i, ts, "purchase", q, p) for i, ts, q, p in zip(*columns, strict=True)]
        store.append(user, histories[user])
    champion = Recommender.load(version)  # histories come along: a store may be late on a busy machine
    champion.exploration_rate, champion.rng = 0.5, np.random.default_rng(0)
    end, rng = champion.bundle.manifest["data"]["window"]["end"], np.random.default_rng(1)
    shop = Shop(folder, folder.parent / "store.db", {}, set(), set())
    log = ImpressionLog(folder / "events")
    for order, lines in orders[orders["ts"] >= end].groupby("order_id"):
        user, ts, device = (lines[c].tolist()[0] for c in ("user_id", "ts", "device"))
        columns = (lines[c].tolist() for c in ("item_id", "quantity", "price"))
        basket = [Line(*line) for line in zip(*columns, strict=True)]
        checkout = Checkout(user, basket, ts, histories[user], context={"device": device}, order_id=order)
        slate = champion.recommend(checkout, deadline_ms=10_000)
        log.log_slate(checkout, slate)
        shop.slates[order] = slate
        for slot, item in enumerate(slate.items):
            if rng.random() < EXAMINATION_PROBABILITY[slot] * true_p_click(user, item.item_id):
                log.log_feedback("click", slate.request_id, item.item_id, ts + 60)
                shop.clicked.add((order, item.item_id))
                if rng.random() < 0.5:
                    log.log_feedback("purchase", slate.request_id, item.item_id, ts + 120, value=PRICE)
                    shop.bought.add((order, item.item_id))
    log.close()
    return shop
