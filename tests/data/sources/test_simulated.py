"""The simulated marketplace: the same from the same seed, drawn as its truth says, clean as a shop's log."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from data.errors import DataError
from data.prepare import prepare
from data.sources import simulated
from simulation import market
from tests.data.conftest import CONFIGS, config


def settings(folder: Path, **changed: Any) -> dict[str, Any]:
    small = {"users": 60, "items": 120, "days": 60, "root": str(folder / "simulated")}
    return yaml.safe_load((CONFIGS / "data" / "simulated.yaml").read_text()) | small | changed


def rows(cfg: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    simulated.table_files(cfg)
    table = pq.read_table(simulated.simulation_folder(cfg) / f"{name}.parquet")
    return {c: table[c].to_numpy() for c in table.column_names}


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    names = ("orders", "items", "users", "events", "truth")
    first, again, other = (
        settings(tmp_path / name, seed=seed) for name, seed in zip("abc", (3, 3, 4), strict=True)
    )
    for cfg in (first, again, other):
        simulated.table_files(cfg)
    for name in names:
        a, b = (pq.read_table(simulated.simulation_folder(cfg) / f"{name}.parquet") for cfg in (first, again))
        assert a.equals(b), name
    assert simulated.simulation_folder(other).name != simulated.simulation_folder(first).name
    assert not np.array_equal(rows(first, "orders")["item_id"], rows(other, "orders")["item_id"])


def test_more_users_change_nothing_for_the_first_block(tmp_path: Path) -> None:
    few, many = (
        settings(tmp_path, users=simulated.USERS_PER_BLOCK),
        settings(tmp_path, users=simulated.USERS_PER_BLOCK + 20),
    )
    few, many = rows(few, "orders"), rows(many, "orders")
    first = many["user_id"] < simulated.USERS_PER_BLOCK
    assert np.array_equal(few["item_id"], many["item_id"][first])
    assert set(many["user_id"]) - set(few["user_id"]) == set(
        range(simulated.USERS_PER_BLOCK, simulated.USERS_PER_BLOCK + 20)
    )


def test_outcomes_are_drawn_as_the_truth_says(tmp_path: Path) -> None:
    """Counts of clicks and purchases stay within four standard deviations, in all and at each position."""
    cfg = settings(tmp_path, users=500, days=120)
    truth, events = rows(cfg, "truth"), rows(cfg, "events")
    key = truth["order_id"] * cfg["items"] + truth["item_id"]
    happened = events["order_id"] * cfg["items"] + events["item_id"]
    clicked = np.isin(key, happened[events["kind"] == "click"])
    bought = np.isin(key, happened[events["kind"] == "purchase"])
    assert not (bought & ~clicked).any()

    order = np.unique(truth["order_id"])
    final = order[np.diff(order // simulated.MAX_ORDERS_PER_USER, append=-1) != 0]
    followed = clicked & ~np.isin(truth["order_id"], final)  # what follows the last order is not in the log
    parts = {"all": np.ones(len(key), bool)} | {k: truth["position"] == k for k in range(1, cfg["slots"] + 1)}
    parts |= {"likely": truth["p_click_examined"] > 0.4, "unlikely": truth["p_click_examined"] < 0.1}
    for part, mask in parts.items():
        for p, drawn, kept in (
            (truth["p_click_shown"], clicked, mask),
            (truth["p_purchase_given_click"], bought, mask & followed),
        ):
            spread = np.sqrt((p * (1 - p))[kept].sum())
            assert spread > 5, part
            assert abs((drawn - p)[kept].sum()) < 4 * spread, part
    np.testing.assert_allclose(
        truth["p_click_shown"],
        truth["p_click_examined"] * truth["position"] ** -cfg["position_bias"],
        rtol=1e-6,
    )
    value = events["value"][events["kind"] == "purchase"].sum()
    assert abs(value / truth["expected_value"][~np.isin(truth["order_id"], final)].sum() - 1) < 0.06


def test_slates_hold_distinct_items_that_have_arrived(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    events, items = rows(cfg, "events"), rows(cfg, "items")
    shown = events["kind"] == "impression"
    order, item = (
        events["order_id"][shown].reshape(-1, cfg["slots"]),
        events["item_id"][shown].reshape(-1, cfg["slots"]),
    )
    assert (order == order[:, :1]).all()
    assert (np.diff(np.sort(item), axis=1) > 0).all()
    assert (items["created_at"][events["item_id"]] <= events["ts"]).all()
    bought = rows(cfg, "orders")
    assert (items["created_at"][bought["item_id"]] <= bought["ts"]).all()
    assert (items["created_at"] > market.SIMULATION_START).mean() == pytest.approx(
        market.NEW_ITEM_SHARE, abs=0.01
    )


def test_propensities_are_those_of_the_draws(tmp_path: Path) -> None:
    """The mean of 1 / propensity estimates how many items could have been there, whatever was drawn."""
    cfg = settings(tmp_path, users=500, items=40, days=120, exploration=0.5)
    events, items = rows(cfg, "events"), rows(cfg, "items")
    first = (events["kind"] == "impression") & (events["position"] == 1)
    there = np.searchsorted(items["created_at"], events["ts"][first], side="right")
    estimate = 1 / events["propensity"][first]
    assert abs(estimate.mean() / there.mean() - 1) < 0.05


def test_truth_of_any_pair(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    shown = rows(cfg, "truth")
    some = np.random.default_rng(0).permutation(len(shown["order_id"]))[:300]
    found = simulated.ground_truth(cfg, shown["order_id"][some], shown["item_id"][some])
    np.testing.assert_allclose(found.p_click_given_examined, shown["p_click_examined"][some])
    np.testing.assert_allclose(found.p_purchase_given_click, shown["p_purchase_given_click"][some])
    seen = shown["p_examined"][some]
    np.testing.assert_allclose(found.expected_value * seen, shown["expected_value"][some], rtol=1e-6)
    with pytest.raises(ValueError, match="order 999999999 is not"):
        simulated.ground_truth(cfg, np.array([999_999_999]), np.array([0]))
    with pytest.raises(ValueError, match="items of this marketplace are 0 to 119"):
        simulated.ground_truth(cfg, shown["order_id"][:1], np.array([120]))


def test_it_prepares_like_any_shop_and_keeps_its_truth_to_itself(tmp_path: Path) -> None:
    cfg = config(tmp_path) | {"data": settings(tmp_path)}
    folder = prepare(cfg)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["counts"]["rejected"] == 0
    assert meta["click"] == "logged"
    assert set(meta["fingerprint"]) == {"orders", "items", "users", "events"}
    hidden = {"p_examined", "p_click_examined", "p_click_shown", "p_purchase_given_click", "expected_value"}
    for file in folder.rglob("*.parquet"):
        assert not hidden & set(pq.read_schema(file).names), file
    with pytest.raises(DataError, match=r"data\.horizon is '14d'"):
        prepare(cfg | {"data": cfg["data"] | {"horizon": "14d"}})
