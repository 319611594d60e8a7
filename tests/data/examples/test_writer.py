"""Examples against a slow and plain implementation of the contract, and with events planted in the future."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.examples import splits
from data.prepare import prepare
from tests.data.conftest import config, save
from tests.data.shop import DAY, START, iso, make_shop

SPLIT = {
    "validation_start": iso(START + 30 * DAY), "test_start": iso(START + 45 * DAY),
    "test_end": iso(START + 55 * DAY), "validation_share": 0.1, "test_share": 0.1,
}  # fmt: skip
OUTCOME = ("impression", "click", "purchase", "position", "ghost", "withhold", "value")
KINDS = {"purchase": 0, "click": 1, "cart": 2}


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def read_examples(folder: Path) -> dict[str, dict[str, Any]]:
    """order_id → the row of an example, and its `split`."""
    examples = {}
    for split in ("train", "validation", "test"):
        rows = pq.read_table(folder / "examples" / f"{split}.parquet").to_pylist()
        examples |= {row["order_id"]: row | {"split": split} for row in rows}
    return examples


def plain_checkouts(orders: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """order_id → user, ts, ingestion time, and lines by item_id: (quantity, spend, ingestion time)."""
    checkouts: dict[str, dict[str, Any]] = {}
    for r in orders:
        c = checkouts.setdefault(
            r["order_id"], {"user": r["user_id"], "ts": 0, "ingested_at": 0, "lines": {}}
        )
        c["ts"] = max(c["ts"], seconds(r["ts"]))
        ingested_at = seconds(r["ingested_at"]) if r.get("ingested_at") else 0
        c["ingested_at"] = max(c["ingested_at"], ingested_at)
        quantity, spend, line_ingested_at = c["lines"].get(r["item_id"], (0, 0.0, 0))
        c["lines"][r["item_id"]] = (
            quantity + r["quantity"],
            spend + r["quantity"] * r["price"],
            max(line_ingested_at, ingested_at),
        )
    return checkouts


class PlainExamples:
    """Examples by loops over Python dicts."""

    def __init__(self, tables: dict[str, Any], horizon: str, max_history: int) -> None:
        self.item = {r["item_id"]: k + 1 for k, r in enumerate(tables["items"])}
        self.price = {r["item_id"]: r["price"] for r in tables["items"]}
        self.checkouts = plain_checkouts(tables["orders"])
        by_time = sorted(self.checkouts.items(), key=lambda kv: (kv[1]["ts"], kv[0]))
        self.number = {order: k for k, (order, _) in enumerate(by_time)}
        self.events = tables.get("events", [])
        self.clicks_logged, self.impressions_logged = (
            any(e["kind"] == kind for e in self.events) for kind in ("click", "impression")
        )
        self.horizon, self.max_history = horizon, max_history
        self.history_events = self.list_history_events()

    def list_history_events(self) -> dict[str, list[tuple]]:
        """User → (available_at, ts, order number, item, kind, quantity, price) of every event."""
        events: dict[str, list[tuple]] = {}
        for order, c in self.checkouts.items():
            for i, (quantity, spend, ingested_at) in c["lines"].items():
                key = (max(c["ts"], ingested_at), c["ts"], self.number[order])
                event = (*key, self.item[i], 0, quantity, spend / quantity)
                events.setdefault(c["user"], []).append(event)
        for e in self.events:
            if e["kind"] in ("click", "cart"):
                ts = seconds(e["ts"])
                available_at = max(ts, seconds(e["ingested_at"])) if e.get("ingested_at") else ts
                event = (available_at, ts, -1, self.item[e["item_id"]], KINDS[e["kind"]], 1, 0)
                events.setdefault(e["user_id"], []).append(event)
        return events

    def belongs_to(self, event: dict[str, Any], order: str, horizon_end: int | None) -> bool:
        """Whether an event counts for a checkout."""
        ts, checkout = seconds(event["ts"]), self.checkouts[order]
        if horizon_end is None or ts > horizon_end or event["kind"] == "cart":
            return False
        if event.get("order_id"):
            return event["order_id"] == order and checkout["ts"] <= ts
        before = [
            (self.number[k], k)
            for k, c in self.checkouts.items()
            if c["user"] == event["user_id"] and c["ts"] < ts
        ]
        return bool(before) and max(before)[1] == order and event["kind"] != "purchase"

    def outcomes(self, order: str, horizon_end: int | None) -> dict[int, tuple]:
        """Item → values of OUTCOME."""
        checkout = self.checkouts[order]
        outcome: dict[int, dict[str, Any]] = {}
        empty = {"impression": False, "click": False, "purchase": False, "position": 0, "value": 0.0,
                 "ghost": False, "withhold": 0.0}  # fmt: skip
        for c in self.checkouts.values():
            in_horizon = horizon_end is not None and checkout["ts"] < c["ts"] <= horizon_end
            if c["user"] == checkout["user"] and in_horizon:
                for i, (_, spend, _) in c["lines"].items():
                    entry = outcome.setdefault(self.item[i], dict(empty))
                    entry["purchase"], entry["value"] = True, entry["value"] + spend
        for e in self.events:
            if not self.belongs_to(e, order, horizon_end):
                continue
            entry = outcome.setdefault(self.item[e["item_id"]], dict(empty))
            entry["impression"] |= e["kind"] == "impression"
            entry["ghost"] |= e["kind"] == "ghost"
            if e["kind"] in ("impression", "ghost"):
                entry["withhold"] = max(entry["withhold"], e.get("withhold") or 0.0)
            entry["click"] |= e["kind"] == "click" or (self.impressions_logged and e["kind"] == "purchase")
            if e["kind"] == "impression" and e.get("position") not in (None, ""):  # the log counts from 0
                entry["position"] = min(entry["position"] or 99, e["position"] + 1)
            if e["kind"] == "purchase" and not entry["purchase"]:
                entry["purchase"], entry["value"] = True, e.get("value") or self.price[e["item_id"]]
        for entry in outcome.values():
            entry["ghost"] &= not entry["impression"]
            implied = entry["purchase"] and not self.impressions_logged
            entry["click"] = self.clicks_logged and (entry["click"] or implied)
        return {i: tuple(entry[c] for c in OUTCOME) for i, entry in outcome.items()}

    def example(self, order: str) -> dict[str, Any]:
        checkout = self.checkouts[order]
        ts, own = checkout["ts"], [c for c in self.checkouts.values() if c["user"] == checkout["user"]]
        if self.horizon == "next_order":
            horizon_end = min((c["ts"] for c in own if c["ts"] > ts), default=None)
        else:
            horizon_end = ts + int(self.horizon[:-1]) * DAY
        known = sorted(e for e in self.history_events[checkout["user"]] if e[0] < ts)[-self.max_history :]
        history = sorted(known, key=lambda e: e[1:])
        return {
            "user_id": checkout["user"],
            "ts": ts,
            "horizon_end": horizon_end,
            "n_prior_orders": sum(max(c["ts"], c["ingested_at"]) < ts for c in own),
            "history": [(e[3], e[1], e[4], e[5], np.float32(e[6])) for e in history],
            "basket": sorted(
                (self.item[i], quantity, np.float32(spend / quantity))
                for i, (quantity, spend, _) in checkout["lines"].items()
            ),
            "outcome": self.outcomes(order, horizon_end),
        }

    def all_examples(self) -> dict[str, dict[str, Any]]:
        return {order: self.example(order) for order in self.checkouts}


def tangled_shop(events: bool, late: bool) -> dict[str, Any]:
    """A shop with ties, events without an order_id, purchase events and late ingestion."""
    tables = make_shop(users=12, items=24, days=70, events=events, seed=3)
    rng = np.random.default_rng(1)
    first = tables["orders"][0]
    tables["orders"].append({**first, "order_id": "tie", "item_id": "i023"})  # two orders in one second
    if events:
        for e in tables["events"]:
            draw = rng.random()
            if draw < 0.3:
                del e["order_id"]
            elif draw < 0.4:
                e["kind"] = "cart"
            elif draw < 0.45:
                e |= {"kind": "purchase", "value": 5.5 if draw < 0.42 else ""}
            elif draw < 0.47:
                e["position"] = ""
            elif draw > 0.7:
                e |= {"kind": "ghost" if draw > 0.85 else e["kind"], "withhold": 0.25}
            elif draw < 0.5:
                e["ts"] = iso(seconds(e["ts"]) + int(rng.integers(0, 30)) * DAY)
    if late:
        for r in [*tables["orders"], *tables.get("events", [])]:
            if rng.random() < 0.3:
                r["ingested_at"] = iso(seconds(r["ts"]) + int(rng.integers(0, 20 * DAY)))
    return tables


def expected_split(example: dict[str, Any], bounds: dict[str, int], end: int) -> str | None:
    limit, split = bounds["validation_start"], "train"
    if example["ts"] >= bounds["validation_start"]:
        limit, split = bounds["test_start"], "validation"
    if example["ts"] >= bounds["test_start"]:
        limit, split = end, "test"
    horizon_end = example["horizon_end"]
    fits = horizon_end is not None and horizon_end <= limit and example["ts"] < bounds["test_end"]
    return split if fits else None


@pytest.mark.parametrize("horizon", ["9d", "next_order"])
@pytest.mark.parametrize(("events", "late"), [(False, False), (True, False), (True, True)])
def test_examples_equal_the_plain_ones(tmp_path: Path, horizon: str, events: bool, late: bool) -> None:
    tables = tangled_shop(events, late)
    save(tmp_path, tables)
    cfg = config(tmp_path, horizon=horizon, split=SPLIT)
    cfg["features"]["max_history"] = 20
    folder = prepare(cfg)
    examples = read_examples(folder)
    expected = PlainExamples(tables, horizon, 20).all_examples()
    meta = json.loads((folder / "meta.json").read_text())
    end = max(e["ts"] for e in expected.values())
    for order, e in expected.items():
        split = examples[order]["split"] if order in examples else None
        assert split == expected_split(e, meta["split"], end), order
    counts = meta["counts"]["checkouts"]
    horizon_ends = [e["horizon_end"] for e in expected.values()]
    assert counts["immature"] == sum(ts is None or ts > end for ts in horizon_ends)
    assert sum(counts.values()) == len(expected)
    assert meta["click"] == ("logged" if events else "leaf_category_proxy")
    for split, n in meta["impressions"].items():
        rows = [row for row in examples.values() if row["split"] == split]
        assert n == sum(any(row["outcome_impression"]) for row in rows)
        assert meta["ghosts"][split] == sum(any(row["outcome_ghost"]) for row in rows)
    assert any(meta["ghosts"].values()) == events
    assert len(examples) > 40
    censored = [folder / "examples" / f"{split}.parquet" for split in splits.CENSORED]
    # Before the next order comes, nothing is known of it.
    assert [file.is_file() for file in censored] == [horizon != "next_order"] * 2
    for order, row in examples.items():
        assert_equal_example(order, row, expected[order])
        assert row["snapshot"] == (row["ts"] - meta["window"]["start"]) // (7 * DAY)


def assert_equal_example(order: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    lists = {
        group: list(zip(*(row[f"{group}_{c}"] for c in columns), strict=True))
        for group, columns in {
            "history": ("item", "ts", "kind", "quantity", "price"),
            "basket": ("item", "quantity", "price"),
            "outcome": ("item", *OUTCOME),
        }.items()
    }
    for c in ("user_id", "ts", "n_prior_orders"):
        assert row[c] == expected[c], order
    assert lists["history"] == expected["history"], order
    assert lists["basket"] == expected["basket"], order
    outcome = expected["outcome"]
    assert {o[0]: o[1:-1] for o in lists["outcome"]} == {i: o[:-1] for i, o in outcome.items()}
    values = {i: o[-1] for i, o in outcome.items()}
    assert {o[0]: o[-1] for o in lists["outcome"]} == pytest.approx(values, abs=1e-3), order


def test_future_events_change_no_query(tmp_path: Path) -> None:
    """Events planted after some time leave every earlier query byte for byte as it was."""
    tables = make_shop(users=15, items=24, days=70, events=True)
    results = []
    for planted in (False, True):
        folder = tmp_path / str(planted)
        if planted:
            plant_future_events(tables, iso(START + 45 * DAY + 1000))
        save(folder, tables)
        results.append(prepare(config(folder, split=SPLIT)))
    columns = ["order_id", "user_id", "ts", "n_prior_orders", "context", "profile"]
    columns += [f"{g}_{c}" for g in ("history", "basket") for c in ("item", "quantity", "price")]
    for split in ("train", "validation"):
        before, after = (pq.read_table(r / "examples" / f"{split}.parquet") for r in results)
        after = after.filter([order != "z" for order in after["order_id"].to_pylist()])
        assert before.select(columns).equals(after.select(columns))
    schemas = [json.loads((r / "schema.json").read_text()) for r in results]
    assert schemas[0]["context"] == schemas[1]["context"]
    for name in ("snapshots", "copurchase_neighbours", "ease_neighbours"):
        rows = [pq.read_table(r / f"{name}.parquet").to_pylist() for r in results]
        early = [[row for row in table if row["snapshot"] < 6] for table in rows]
        assert early[0] == early[1]
        assert early[0]


def plant_future_events(tables: dict[str, Any], future: str) -> None:
    """Orders and clicks that happen, or become known, at `future`."""
    line = {**tables["orders"][0], "price": 999, "quantity": 50, "device": "watch"}
    for k in range(15):
        tables["orders"].append({**line, "order_id": f"x{k}", "user_id": f"u{k:03d}", "ts": future})
    tables["orders"].append({**line, "order_id": "y", "item_id": "new", "ts": future})
    click = {"user_id": "u001", "item_id": "i001", "kind": "click"}
    tables["events"].append({**click, "ts": future})
    # They happen early and become known later.
    tables["events"].append({**click, "ts": iso(START + DAY), "ingested_at": future})
    early = {**line, "order_id": "z", "user_id": "u003", "ts": iso(START + 2 * DAY)}
    tables["orders"].append({**early, "ingested_at": future, "device": "phone"})


def test_users_of_one_order(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=24, days=70)
    line = tables["orders"][0]
    tables["orders"].append({**line, "order_id": "once", "user_id": "solo", "ts": iso(START + 20 * DAY)})
    save(tmp_path, tables)
    row = read_examples(prepare(config(tmp_path, split=SPLIT, horizon="5d")))["once"]
    assert row["history_item"] == []
    assert row["outcome_item"] == []
    assert row["n_prior_orders"] == 0
    assert row["basket_item"] == [int(line["item_id"][1:]) + 1]
    assert row["profile"] == [0, 0], "a user without attributes has unknown ones"


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    tables = make_shop(users=6, items=24, days=20)
    save(tmp_path, tables)
    with pytest.raises(DataError, match=r"set data\.horizon=\dd"):
        prepare(config(tmp_path, horizon="30d"))
    with pytest.raises(DataError, match=r"data\.horizon is 'soon'"):
        prepare(config(tmp_path, horizon="soon"))
    with pytest.raises(DataError, match=r"data\.split\.test_start is 'x'"):
        prepare(config(tmp_path, split={**SPLIT, "test_start": "x"}))


def test_censored_checkouts_hold_what_is_known_at_the_cut(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=30, days=90)
    save(tmp_path, tables)
    folder = prepare(config(tmp_path, horizon="14d", split=SPLIT))
    checkouts, meta = plain_checkouts(tables["orders"]), json.loads((folder / "meta.json").read_text())
    item_ids = pq.read_table(folder / "items.parquet")["item_id"].to_pylist()
    cuts = {"censored_at_test": meta["split"]["test_start"], "censored_at_end": meta["window"]["end"]}
    for split, cut in cuts.items():
        rows = pq.read_table(folder / "examples" / f"{split}.parquet").to_pylist()
        expected = {order for order, c in checkouts.items() if c["ts"] < cut < c["ts"] + 14 * DAY}
        assert {row["order_id"] for row in rows} == expected
        for row in rows:
            paid = checkouts[row["order_id"]]
            delays: dict[str, int] = {}
            for c in sorted(checkouts.values(), key=lambda c: c["ts"]):
                if c["user"] == paid["user"] and paid["ts"] < c["ts"] <= cut:
                    for item in c["lines"]:
                        delays.setdefault(item, c["ts"] - paid["ts"])
            bought = [item_ids[item] for item in row["outcome_item"]]
            assert dict(zip(bought, row["purchase_delay"], strict=True)) == delays
            assert row["horizon_end"] == cut


def test_censored_checkouts_are_few_and_spread_over_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "MAX_CENSORED", 10)
    save(tmp_path, make_shop(users=20, items=30, days=90))
    folder = prepare(config(tmp_path, horizon="14d", split=SPLIT))
    ts = pq.read_table(folder / "examples" / "censored_at_test.parquet")["ts"].to_numpy()
    assert 5 <= len(ts) <= 10
    assert np.diff(ts).max() < 6 * DAY
