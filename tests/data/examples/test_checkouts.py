"""Examples against a slow and plain reading of the contract, and against facts planted in the future."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.errors import DataError
from data.prepare import prepare
from tests.data.conftest import config, save
from tests.data.shop import DAY, START, iso, make_shop

SPLIT = {
    "validation_start": iso(START + 30 * DAY), "test_start": iso(START + 45 * DAY),
    "test_end": iso(START + 55 * DAY), "validation_share": 0.1, "test_share": 0.1,
}  # fmt: skip
OUTCOME = ("impression", "click", "purchase", "position", "value")
KINDS = {"purchase": 0, "click": 1, "cart": 2}


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def read(folder: Path, split: str) -> list[dict[str, Any]]:
    return pq.read_table(folder / "examples" / f"{split}.parquet").to_pylist()


def every_example(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [r | {"split": s} for s in ("train", "validation", "test") for r in read(folder, s)]
    return {r["order_id"]: r for r in rows}


def slow_examples(tables: dict[str, Any], horizon: str, max_history: int) -> dict[str, dict[str, Any]]:
    """Order → example, by loops over Python dicts."""
    item = {r["item_id"]: k + 1 for k, r in enumerate(tables["items"])}
    price = {r["item_id"]: r["price"] for r in tables["items"]}
    checkouts: dict[str, dict[str, Any]] = {}
    for r in tables["orders"]:
        c = checkouts.setdefault(r["order_id"], {"user": r["user_id"], "ts": 0, "late": 0, "lines": {}})
        c["ts"] = max(c["ts"], seconds(r["ts"]))
        late = seconds(r["ingested_at"]) if r.get("ingested_at") else 0
        c["late"] = max(c["late"], late)
        q, p, known = c["lines"].get(r["item_id"], (0, 0.0, 0))
        c["lines"][r["item_id"]] = (q + r["quantity"], p + r["quantity"] * r["price"], max(known, late))
    number = {o: k for k, (o, _) in enumerate(sorted(checkouts.items(), key=lambda kv: (kv[1]["ts"], kv[0])))}
    facts: dict[str, list[tuple]] = {}
    for o, c in checkouts.items():
        for i, (q, spent, known) in c["lines"].items():
            fact = (max(c["ts"], known), c["ts"], number[o], item[i], 0, q, spent / q)
            facts.setdefault(c["user"], []).append(fact)
    events = tables.get("events", [])
    for e in events:
        if e["kind"] in ("click", "cart"):
            at = seconds(e["ts"])
            known = max(at, seconds(e["ingested_at"])) if e.get("ingested_at") else at
            fact = (known, at, -1, item[e["item_id"]], KINDS[e["kind"]], 1, 0)
            facts.setdefault(e["user_id"], []).append(fact)
    clicks, impressions = (any(e["kind"] == kind for e in events) for kind in ("click", "impression"))
    out = {}
    for o, c in checkouts.items():
        others = [x for x in checkouts.values() if x["user"] == c["user"] and x["ts"] > c["ts"]]
        if horizon == "next_order":
            until = min((x["ts"] for x in others), default=None)
        else:
            until = c["ts"] + int(horizon[:-1]) * DAY
        known = sorted(f for f in facts[c["user"]] if f[0] < c["ts"])[-max_history:]
        history = sorted(known, key=lambda f: f[1:])
        outcome: dict[int, dict[str, Any]] = {}
        empty = {"impression": False, "click": False, "purchase": False, "position": 0, "value": 0.0}
        for x in others:
            for i, (_, spent, _) in x["lines"].items():
                if until is not None and x["ts"] <= until:
                    entry = outcome.setdefault(item[i], dict(empty))
                    entry["purchase"], entry["value"] = True, entry["value"] + spent
        for e in events:
            at = seconds(e["ts"])
            if e.get("order_id"):
                mine = e["order_id"] == o and until is not None and c["ts"] <= at <= until
            else:
                theirs = [(number[k], k) for k, x in checkouts.items() if x["user"] == e["user_id"]]
                before = [(n, k) for n, k in theirs if checkouts[k]["ts"] < at]
                mine = bool(before) and max(before)[1] == o and until is not None and at <= until
                mine = mine and e["kind"] != "purchase"
            if not mine or e["kind"] == "cart":
                continue
            entry = outcome.setdefault(item[e["item_id"]], dict(empty))
            entry["impression"] |= e["kind"] == "impression"
            entry["click"] |= e["kind"] == "click" or (impressions and e["kind"] == "purchase")
            if e["kind"] == "impression" and e.get("position") not in (None, ""):  # the log counts from 0
                entry["position"] = min(entry["position"] or 99, e["position"] + 1)
            if e["kind"] == "purchase" and not entry["purchase"]:
                entry["purchase"], entry["value"] = True, e.get("value") or price[e["item_id"]]
        for entry in outcome.values():
            entry["click"] = clicks and (entry["click"] or (entry["purchase"] and not impressions))
        mine = [x for x in checkouts.values() if x["user"] == c["user"]]
        out[o] = {
            "user_id": c["user"],
            "ts": c["ts"],
            "until": until,
            "n_before": sum(max(x["ts"], x["late"]) < c["ts"] for x in mine),
            "history": [(f[3], f[1], f[4], f[5], np.float32(f[6])) for f in history],
            "basket": sorted((item[i], q, np.float32(s / q)) for i, (q, s, _) in c["lines"].items()),
            "outcome": {i: tuple(e[c] for c in OUTCOME) for i, e in outcome.items()},
        }
    return out


def tangled_shop(events: bool, late: bool) -> dict[str, Any]:
    """A shop with what makes it hard: ties, unattributed events, purchase events, late ingestion."""
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
            elif draw < 0.5:
                e["ts"] = iso(seconds(e["ts"]) + int(rng.integers(0, 30)) * DAY)
    if late:
        for r in [*tables["orders"], *tables.get("events", [])]:
            if rng.random() < 0.3:
                r["ingested_at"] = iso(seconds(r["ts"]) + int(rng.integers(0, 20 * DAY)))
    return tables


@pytest.mark.parametrize("horizon", ["9d", "next_order"])
@pytest.mark.parametrize(("events", "late"), [(False, False), (True, False), (True, True)])
def test_examples_equal_the_slow_reading(tmp_path: Path, horizon: str, events: bool, late: bool) -> None:
    tables = tangled_shop(events, late)
    save(tmp_path, tables)
    cfg = config(tmp_path, horizon=horizon, split=SPLIT)
    cfg["features"]["max_history"] = 20
    folder = prepare(cfg)
    found, expected = every_example(folder), slow_examples(tables, horizon, 20)
    meta = json.loads((folder / "meta.json").read_text())
    end = max(r["ts"] for r in expected.values())
    at = meta["split"]
    for order, e in expected.items():
        limit, split = at["validation_start"], "train"
        if e["ts"] >= at["validation_start"]:
            limit, split = at["test_start"], "validation"
        if e["ts"] >= at["test_start"]:
            limit, split = end, "test"
        inside = e["until"] is not None and e["until"] <= limit and e["ts"] < at["test_end"]
        assert (found[order]["split"] if order in found else None) == (split if inside else None), order
    counts = meta["counts"]["checkouts"]
    assert counts["immature"] == sum(e["until"] is None or e["until"] > end for e in expected.values())
    assert sum(counts.values()) == len(expected)
    assert meta["click"] == ("logged" if events else "leaf_category_proxy")
    for split, n in meta["impressions"].items():
        assert n == sum(r["split"] == split and any(r["outcome_impression"]) for r in found.values())
    assert len(found) > 40
    for order, row in found.items():
        e = expected[order]
        lists = {
            g: list(zip(*(row[f"{g}_{c}"] for c in fields), strict=True))
            for g, fields in {
                "history": ("item", "ts", "kind", "quantity", "price"),
                "basket": ("item", "quantity", "price"),
                "outcome": ("item", *OUTCOME),
            }.items()
        }
        for c in ("user_id", "ts", "n_before"):
            assert row[c] == e[c], order
        assert lists["history"] == e["history"], order
        assert lists["basket"] == e["basket"], order
        assert {o[0]: o[1:-1] for o in lists["outcome"]} == {i: o[:-1] for i, o in e["outcome"].items()}
        values = {i: o[-1] for i, o in e["outcome"].items()}
        assert {o[0]: o[-1] for o in lists["outcome"]} == pytest.approx(values, abs=1e-3), order
        assert row["snapshot"] == (row["ts"] - meta["window"]["start"]) // (7 * DAY)


def test_the_future_changes_nothing(tmp_path: Path) -> None:
    """Facts planted after an instant leave every training query byte for byte as it was."""
    tables = make_shop(users=15, items=24, days=70, events=True)
    now = START + 45 * DAY
    results = []
    for planted in (False, True):
        folder = tmp_path / str(planted)
        if planted:
            future = iso(now + 1000)
            line = {**tables["orders"][0], "price": 999, "quantity": 50, "device": "watch"}
            for k in range(15):
                tables["orders"].append({**line, "order_id": f"x{k}", "user_id": f"u{k:03d}", "ts": future})
            tables["orders"].append({**line, "order_id": "y", "item_id": "new", "ts": future})
            click = {"user_id": "u001", "item_id": "i001", "kind": "click"}
            tables["events"].append({**click, "ts": future})
            # It happened early, but was known only later.
            tables["events"].append({**click, "ts": iso(START + DAY), "ingested_at": future})
            early = {**line, "order_id": "z", "user_id": "u003", "ts": iso(START + 2 * DAY)}
            tables["orders"].append({**early, "ingested_at": future, "device": "phone"})
        save(folder, tables)
        results.append(prepare(config(folder, split=SPLIT)))
    queries = ["order_id", "user_id", "ts", "n_before", "context", "profile"]
    queries += [f"{g}_{c}" for g in ("history", "basket") for c in ("item", "quantity", "price")]
    for split in ("train", "validation"):
        was, now_is = (pq.read_table(r / "examples" / f"{split}.parquet") for r in results)
        now_is = now_is.filter([order not in ("z",) for order in now_is["order_id"].to_pylist()])
        assert was.select(queries).equals(now_is.select(queries))
    schemas = [json.loads((r / "schema.json").read_text()) for r in results]
    assert schemas[0]["context"] == schemas[1]["context"]
    for name in ("snapshots", "neighbours", "ease_neighbours"):
        rows = [pq.read_table(r / f"{name}.parquet").to_pylist() for r in results]
        early = [[s for s in table if s["snapshot"] < 6] for table in rows]
        assert early[0] == early[1]
        assert early[0]


def test_users_of_one_order(tmp_path: Path) -> None:
    tables = make_shop(users=20, items=24, days=70)
    line = tables["orders"][0]
    tables["orders"].append({**line, "order_id": "once", "user_id": "solo", "ts": iso(START + 20 * DAY)})
    save(tmp_path, tables)
    row = every_example(prepare(config(tmp_path, split=SPLIT, horizon="5d")))["once"]
    assert row["history_item"] == []
    assert row["outcome_item"] == []
    assert row["n_before"] == 0
    assert row["basket_item"] == [int(line["item_id"][1:]) + 1]
    assert row["profile"] == [0, 0], "a user without attributes has unknown ones"


def test_splits_that_cannot_be(tmp_path: Path) -> None:
    tables = make_shop(users=6, items=24, days=20)
    save(tmp_path, tables)
    with pytest.raises(DataError, match=r"Shorten data\.horizon|shorten data\.horizon"):
        prepare(config(tmp_path, horizon="30d"))
    with pytest.raises(DataError, match=r"data\.horizon is 'soon'"):
        prepare(config(tmp_path, horizon="soon"))
    with pytest.raises(DataError, match=r"data\.split\.test_start is 'x'"):
        prepare(config(tmp_path, split={**SPLIT, "test_start": "x"}))
