"""A recommender's slates and their feedback, logged, are the labels that preparation makes of the log."""

import json
import shutil
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from data.io import engine
from data.prepare import prepare
from data.sources import tables
from data.tables.attribution import NO_CHECKOUT, attribute_feedback
from data.tables.contract import conform
from serving import Checkout, ImpressionLog, Item, Line, Recommender, Slate
from serving.checkout import SECONDS_PER_DAY as DAY
from tests.data.conftest import config
from tests.data.shop import write_shop
from training.labels import label_policy_from_meta


def test_labels_positions_and_propensities_are_those_that_were_logged(
    shared: Recommender, tmp_path: Path
) -> None:
    """With order ids, without, and of guests; clicks by request or by user, twice, late and of no request."""
    shop, rng = write_shop(tmp_path / "shop", users=12, items=80, days=90), np.random.default_rng(2)
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    log = ImpressionLog(shop / "events", rotate_rows=1000)
    shown: dict[str, dict[str, tuple[int, float]]] = {}
    clicked: dict[str, set[str]] = defaultdict(set)
    paid: dict[str, dict[str, float]] = defaultdict(dict)
    for number, (order, lines) in enumerate(orders.groupby("order_id")):
        user, ts = lines["user_id"].iloc[0], int(datetime.fromisoformat(lines["ts"].iloc[0]).timestamp())
        basket = [Line(item) for item in lines["item_id"]]
        way = ("all is known", "no order id", "a guest")[number % 3]
        checkout = Checkout(
            user_id=None if way == "a guest" else user,
            basket=basket, ts=ts, order_id=None if way == "no order id" else order,
        )  # fmt: skip
        slate = shared.recommend(checkout, deadline_ms=float("inf"))
        chances = rng.uniform(0.1, 1, len(slate.items)).tolist()
        items = zip(slate.items, chances, strict=True)
        slate = replace(slate, items=tuple(replace(item, propensity=chance) for item, chance in items))
        log.log_slate(checkout, slate, arm="ab"[number % 2])
        ids = [item.item_id for item in slate.items]
        shown[order] = dict(zip(ids, enumerate(chances, 1), strict=True))
        for place in np.flatnonzero(rng.random(len(ids)) < 0.4):
            by_user = way != "a guest" and rng.random() < 0.5
            request = (
                (None, ids[place], ts + 60, user) if by_user else (slate.request_id, ids[place], ts + 60)
            )
            log.log_feedback("click", *request)
            log.log_feedback("click", *request)
            clicked[order].add(ids[place])
            if rng.random() < 0.5:
                log.log_feedback("purchase", slate.request_id, ids[place], ts + DAY, value=3.25)
                paid[order][ids[place]] = 3.25
        log.log_feedback("click", slate.request_id, ids[0], ts + DAY + 1)  # too late
        log.log_feedback("click", "of another log", ids[1], ts + 5, user)
    log.close()

    out = prepare(config(shop, horizon="7d"))
    meta = json.loads((out / "meta.json").read_text())
    clicks = sum(map(len, clicked.values()))
    assert meta["attribution"]["impression"] == {
        "joined": 6 * len(shown), "repeated": 0, "guest": 0, "no_checkout": 0,
    }  # fmt: skip
    assert meta["attribution"]["click"] == {
        "joined": clicks, "repeated": clicks, "unknown": len(shown), "early": 0, "late": len(shown),
    }  # fmt: skip
    assert (label_policy_from_meta(meta).has_impressions, label_policy_from_meta(meta).proxy_clicks) == (
        True,
        False,
    )

    item_of = pq.read_table(out / "items.parquet")["item_id"].to_pylist()
    examples = [
        row
        for split in ("train", "validation", "test")
        for row in pq.read_table(out / "examples" / f"{split}.parquet").to_pylist()
    ]
    assert len(examples) > 50
    bought = 0
    for row in examples:
        order, names = row["order_id"], [item_of[item] for item in row["outcome_item"]]
        columns = {
            name: dict(zip(names, row[f"outcome_{name}"], strict=True)) for name in ("impression", "position")
        }
        seen = {name for name in names if columns["impression"][name]}
        assert seen == set(shown[order])
        assert {name: columns["position"][name] for name in seen} == {
            name: place for name, (place, _) in shown[order].items()
        }
        assert {n for n, c in zip(names, row["outcome_click"], strict=True) if c} == clicked[order]
        spent = dict(zip(names, row["outcome_value"], strict=True))
        own = orders[orders["user_id"] == row["user_id"]]
        for name, value in paid[order].items():
            bought += 1
            if name not in set(own["item_id"]):  # else order lines may say what was spent
                assert spent[name] == value
        assert all(spent[name] > 0 for name in paid[order])
    assert bought > 20

    with_chances = canonical(shop)
    assert len(with_chances) == 6 * len(shown)
    for row in with_chances:
        assert shown[row["order_id"]][row["item_id"]] == (row["position"], row["propensity"])


def test_logs_of_this_release_and_the_one_before_are_read_together(release: Path, tmp_path: Path) -> None:
    """Files of the log before have no column `predictions`."""
    shop = Path(shutil.copytree(release / "shop", tmp_path / "shop"))
    (shop / "events.csv").unlink()
    old = Path(shutil.copytree(release / "log", shop / "events"))
    n_old = sum(len(pq.read_table(file, columns=["kind"])) for file in old.glob("*.parquet"))
    orders = pd.read_csv(shop / "orders.csv", dtype=str)
    order, user, at = orders.iloc[-1][["order_id", "user_id", "ts"]]
    ts = int(datetime.fromisoformat(at).timestamp())
    log = ImpressionLog(old)
    item = Item("i001", "t", "c", 1.0, 0.5, 0.25, 1.5, ("ann",), predictions={"click": 0.5, "wishlist": 0.1})
    slate = Slate((item,), "ranked", "", {"total": 1.0}, "new", "v")
    log.log_slate(Checkout(user, [], ts=ts, order_id=order), slate)
    log.close()
    assert "predictions" not in pq.read_schema(next(release.glob("log/*.parquet"))).names
    con = ibis.duckdb.connect(threads=1)
    events = tables.read_tables(con, {"root": str(shop)})["events"]
    assert con.execute(events.count()) == n_old + 1
    meta = json.loads((prepare(config(shop, horizon="7d")) / "meta.json").read_text())
    con.disconnect()
    assert meta["attribution"]["impression"]["joined"] > 0


def canonical(shop: Path) -> list[dict]:
    """The impressions as events with a checkout."""
    con = ibis.duckdb.connect(threads=1)
    files, raw = tables.table_files({"root": str(shop)}), tables.read_tables(con, {"root": str(shop)})
    log, orders = (
        engine.materialize(con, f"canonical_{name}", conform(raw[name], name, files[name]))
        for name in ("events", "orders")
    )
    found = con.to_pyarrow(attribute_feedback(con, log, orders, DAY, 7 * DAY)[0]).to_pylist()
    con.disconnect()
    assert any(row["order_id"] == NO_CHECKOUT for row in found)
    return [row for row in found if row["kind"] == "impression"]
