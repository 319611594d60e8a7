"""The simulated market: the same from the same seed, drawn as its truth says, clean as a shop's tables."""

import ast
import hashlib
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
from simulation import logged_market
from simulation.catalog import NEW_ITEM_SHARE, SIMULATION_START, item_vectors, sample_items
from tests.data.conftest import CONFIGS, config


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    small = {"users": 60, "items": 120, "days": 60, "root": str(folder / "simulated")}
    return yaml.safe_load((CONFIGS / "data" / "simulated.yaml").read_text()) | small | changes


def read_columns(cfg: dict[str, Any], name: str) -> dict[str, np.ndarray]:
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
    orders, other_orders = read_columns(first, "orders"), read_columns(other, "orders")
    assert not np.array_equal(orders["item_id"], other_orders["item_id"])


def test_the_folder_is_keyed_by_the_code_that_it_depends_on() -> None:
    """Every module of the simulator that the source imports, directly or not, is hashed."""
    hashed = {module.__name__: Path(str(module.__file__)) for module in simulated.SIMULATOR_MODULES}
    for file in (Path(simulated.__file__), *hashed.values()):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "simulation":
                assert {f"simulation.{name.name}" for name in node.names} <= set(hashed), file
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simulation."):
                assert node.module in hashed, file


def test_more_users_change_nothing_for_the_first_block(tmp_path: Path) -> None:
    block = logged_market.USERS_PER_BLOCK
    few, many = (read_columns(settings(tmp_path, users=n), "orders") for n in (block, block + 20))
    first = many["user_id"] < block
    assert np.array_equal(few["item_id"], many["item_id"][first])
    assert set(many["user_id"]) - set(few["user_id"]) == set(range(block, block + 20))


def test_outcomes_are_drawn_as_the_truth_says(tmp_path: Path) -> None:
    """Counts of clicks and purchases stay within four standard deviations, in all and at each position."""
    cfg = settings(tmp_path, users=500, days=120)
    truth, events = read_columns(cfg, "truth"), read_columns(cfg, "events")
    key = truth["order_id"] * cfg["items"] + truth["item_id"]
    event_key = events["order_id"] * cfg["items"] + events["item_id"]
    clicked = np.isin(key, event_key[events["kind"] == "click"])
    purchased = np.isin(key, event_key[events["kind"] == "purchase"])
    assert not (purchased & ~clicked).any()

    order = np.unique(truth["order_id"])
    last_orders = order[np.diff(order // logged_market.MAX_ORDERS_PER_USER, append=-1) != 0]
    is_last = np.isin(truth["order_id"], last_orders)  # their purchases come after the end
    parts = {"all": np.ones(len(key), bool)} | {k: truth["position"] == k for k in range(1, cfg["slots"] + 1)}
    p_click = truth["p_click_given_examined"]
    parts |= {"likely": p_click > 0.4, "unlikely": p_click < 0.1}
    for part, mask in parts.items():
        for p, drawn, counted in (
            (truth["p_click_at_position"], clicked, mask),
            (truth["p_purchase_given_click"], purchased, mask & clicked & ~is_last),
        ):
            spread = np.sqrt((p * (1 - p))[counted].sum())
            assert spread > 5, part
            assert abs((drawn - p)[counted].sum()) < 4 * spread, part
    np.testing.assert_allclose(
        truth["p_click_at_position"], p_click * truth["position"] ** -cfg["position_bias"], rtol=1e-6
    )
    value = events["value"][events["kind"] == "purchase"].sum()
    assert abs(value / truth["expected_value"][~is_last].sum() - 1) < 0.06


def test_the_market_of_earlier_releases_is_the_default(tmp_path: Path) -> None:
    """Orders, events and truth are those of the release before organic demand, number by number."""
    cfg = settings(tmp_path, seed=3)
    orders, events, truth = (read_columns(cfg, name) for name in ("orders", "events", "truth"))
    names = ("order_id", "user_id", "item_id", "ts", "quantity", "price")
    numbers = [orders[name].astype(np.float64).round(2) for name in names]
    numbers += [events[name].astype(np.float64) for name in ("order_id", "item_id", "ts")]
    digest = hashlib.blake2b(b"".join(column.tobytes() for column in numbers), digest_size=8)
    assert digest.hexdigest() == "0bce34ca7c39d2e2"
    sums = [truth[name].sum() for name in ("p_click_at_position", "p_purchase_given_click", "expected_value")]
    np.testing.assert_allclose(sums, [659.007127, 1469.533564, 4332.942906], rtol=1e-6)
    not_known = ("p_purchase_shown", "p_purchase_not_shown", "incremental_value")
    assert all(np.isnan(truth[name]).all() for name in not_known)
    assert "available" not in read_columns(cfg, "items")


ORGANIC = {"users": 500, "days": 120, "organic": {"share": 0.6}, "withhold": 0.2}


def test_organic_purchases_are_drawn_as_the_truth_says(tmp_path: Path) -> None:
    """Shown and withheld items are bought with the probabilities of the truth, by parts of the pairs."""
    cfg = settings(tmp_path, **ORGANIC)
    truth, orders = read_columns(cfg, "truth"), read_columns(cfg, "orders")
    key = truth["order_id"] * cfg["items"] + truth["item_id"]
    bought = np.isin(key, (orders["order_id"] - 1) * cfg["items"] + orders["item_id"])
    has_next = np.isin(truth["order_id"] + 1, orders["order_id"])
    withheld, p_need = truth["withheld"], truth["p_purchase_not_shown"]
    parts = {"all": np.ones(len(key), bool), "first": truth["position"] == 1, "last": truth["position"] == 6}
    parts |= {"needed": p_need > 0.3, "not needed": p_need < 0.02}
    for part, mask in parts.items():
        for kind, p, counted in (
            ("shown", truth["p_purchase_shown"], mask & has_next & ~withheld),
            ("withheld", p_need, mask & has_next & withheld),
        ):
            spread = np.sqrt((p * (1 - p))[counted].sum())
            assert spread > 3, (part, kind)
            assert abs((bought - p)[counted].sum()) < 4 * spread, (part, kind)


def test_clicks_and_attributed_purchases_of_an_organic_market(tmp_path: Path) -> None:
    cfg = settings(tmp_path, **ORGANIC)
    truth, events, orders = (read_columns(cfg, name) for name in ("truth", "events", "orders"))
    key = truth["order_id"] * cfg["items"] + truth["item_id"]
    event_key = events["order_id"] * cfg["items"] + events["item_id"]
    clicked = np.isin(key, event_key[events["kind"] == "click"])
    purchased = np.isin(key, event_key[events["kind"] == "purchase"])
    assert not (purchased & ~clicked).any()
    assert not (clicked & truth["withheld"]).any(), "a withheld slate has no clicks"
    counted = ~truth["withheld"] & np.isin(truth["order_id"] + 1, orders["order_id"])
    attributed = truth["p_click_at_position"] * truth["p_purchase_given_click"]
    for p, drawn in ((truth["p_click_at_position"], clicked), (attributed, purchased)):
        spread = np.sqrt((p * (1 - p))[counted].sum())
        assert abs((drawn - p)[counted].sum()) < 4 * spread
    added = truth["p_purchase_shown"] - truth["p_purchase_not_shown"]
    assert (added[counted] >= 0).all()
    assert added[counted].sum() < 0.7 * attributed[counted].sum(), "the slot takes credit"


def test_withheld_slates_are_ghosts(tmp_path: Path) -> None:
    cfg = settings(tmp_path, **ORGANIC)
    truth, events = read_columns(cfg, "truth"), read_columns(cfg, "events")
    selected = np.isin(events["kind"], ("impression", "ghost"))
    assert (events["withhold"][selected] == 0.2).all()
    assert np.isnan(events["withhold"][~selected]).all()
    assert np.array_equal(events["kind"][selected] == "ghost", truth["withheld"])
    assert truth["withheld"].mean() == pytest.approx(0.2, abs=0.03)
    assert (truth["withheld"].reshape(-1, 6) == truth["withheld"][::6, None]).all(), "by checkout"
    without = read_columns(cfg | {"withhold": 0.0}, "events")
    assert "withhold" not in without
    assert set(without["kind"]) == {"impression", "click", "purchase"}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_the_share_of_organic_purchases(tmp_path: Path, share: float) -> None:
    cfg = settings(tmp_path, users=200, items=1000, days=90, organic={"share": share})
    truth, items = read_columns(cfg, "truth"), read_columns(cfg, "items")
    measured = truth["p_purchase_not_shown"].sum() / truth["p_purchase_shown"].sum()
    assert measured == pytest.approx(share, abs=0.08)
    assert items["available"][truth["item_id"]].all(), "slates hold what a slot can sell"
    assert items["available"].mean() == pytest.approx(0.85, abs=0.05)
    if share == 0:
        assert measured == 0
        np.testing.assert_allclose(truth["incremental_value"], truth["expected_value"], rtol=1e-5)


def test_unusable_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.organic\.share is 0\.95, expected null or a number from 0"):
        simulated.table_files(settings(tmp_path, organic={"share": 0.95}))
    with pytest.raises(DataError, match=r"data\.withhold is 1\.0, expected a share of the checkouts"):
        simulated.table_files(settings(tmp_path, withhold=1))


def test_slates_hold_distinct_items_that_have_arrived(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    events, items, orders = (read_columns(cfg, name) for name in ("events", "items", "orders"))
    is_impression = events["kind"] == "impression"
    order, item = (events[c][is_impression].reshape(-1, cfg["slots"]) for c in ("order_id", "item_id"))
    assert (order == order[:, :1]).all()
    assert (np.diff(np.sort(item), axis=1) > 0).all()
    assert (items["created_at"][events["item_id"]] <= events["ts"]).all()
    assert (items["created_at"][orders["item_id"]] <= orders["ts"]).all()
    assert (items["created_at"] > SIMULATION_START).mean() == pytest.approx(NEW_ITEM_SHARE, abs=0.01)


def test_propensities_are_those_of_the_draws(tmp_path: Path) -> None:
    """The mean of 1 / propensity estimates how many items were available, whatever was drawn."""
    cfg = settings(tmp_path, users=500, items=40, days=120, exploration=0.5)
    events, items = read_columns(cfg, "events"), read_columns(cfg, "items")
    first = (events["kind"] == "impression") & (events["position"] == 1)
    n_available = np.searchsorted(items["created_at"], events["ts"][first], side="right")
    estimate = 1 / events["propensity"][first]
    assert abs(estimate.mean() / n_available.mean() - 1) < 0.05


@pytest.mark.parametrize("share", [None, 0.3])
def test_truth_of_any_pair(tmp_path: Path, share: float | None) -> None:
    cfg = settings(tmp_path, organic={"share": share})
    truth = read_columns(cfg, "truth")
    sample = np.random.default_rng(0).permutation(len(truth["order_id"]))[:300]
    truth = {name: column[sample] for name, column in truth.items()}
    found = simulated.ground_truth(cfg, truth["order_id"], truth["item_id"])
    np.testing.assert_allclose(found.p_click_given_examined, truth["p_click_given_examined"])
    np.testing.assert_allclose(found.p_purchase_given_click, truth["p_purchase_given_click"])
    at_position = found.expected_value * truth["p_examined"]
    np.testing.assert_allclose(at_position, truth["expected_value"], rtol=1e-6)
    np.testing.assert_allclose(found.p_purchase_not_shown, truth["p_purchase_not_shown"])
    shown = found.p_purchase_not_shown + truth["p_examined"] * (
        found.p_purchase_shown - found.p_purchase_not_shown
    )
    np.testing.assert_allclose(shown, truth["p_purchase_shown"])
    at_position = found.incremental_value * truth["p_examined"]
    np.testing.assert_allclose(at_position, truth["incremental_value"], rtol=1e-6)
    with pytest.raises(ValueError, match="order 999999999 is not"):
        simulated.ground_truth(cfg, np.array([999_999_999]), np.array([0]))
    with pytest.raises(ValueError, match="items of this market are 0 to 119"):
        simulated.ground_truth(cfg, truth["order_id"][:1], np.array([120]))


def test_it_prepares_like_any_shop_without_its_truth(tmp_path: Path) -> None:
    cfg = config(tmp_path) | {"data": settings(tmp_path, organic={"share": 0.3}, withhold=0.1)}
    folder = prepare(cfg)
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["counts"]["rejected"] == 0
    assert meta["click"] == "logged"
    assert 0 < meta["ghosts"]["train"] < 0.3 * meta["impressions"]["train"]
    assert set(meta["fingerprint"]) == {"orders", "items", "users", "events"}
    hidden = {
        "p_examined", "p_click_given_examined", "p_click_at_position", "p_purchase_given_click",
        "expected_value", "p_purchase_shown", "p_purchase_not_shown", "incremental_value", "withheld",
    }  # fmt: skip
    for file in folder.rglob("*.parquet"):
        assert not hidden & set(pq.read_schema(file).names), file
    with pytest.raises(DataError, match=r"data\.horizon is '14d'"):
        prepare(cfg | {"data": cfg["data"] | {"horizon": "14d"}})


def test_vectors_encode_kind_and_appeal(tmp_path: Path) -> None:
    """Items of a leaf category are neighbours, and a linear model reads the hidden appeal."""
    cfg = settings(tmp_path, items=600, vector={"dim": 24, "noise": 0.3})
    items = sample_items(cfg)
    vectors = item_vectors(items, cfg)
    assert vectors.shape == (600, 24)
    assert np.array_equal(vectors, item_vectors(items, cfg))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    same = items.leaf[:, None] == items.leaf
    others = ~np.eye(600, dtype=bool)
    assert similarity[same & others].mean() > similarity[~same].mean() + 0.3
    one_hot = np.eye(items.leaf.max() + 1)[items.leaf]
    residual = [x - one_hot @ np.linalg.lstsq(one_hot, x, rcond=None)[0] for x in (vectors, items.appeal)]
    fitted = residual[0] @ np.linalg.lstsq(*residual, rcond=None)[0]
    assert np.corrcoef(fitted, residual[1])[0, 1] > 0.8


def test_the_item_list_changes_nothing_of_what_users_do(tmp_path: Path) -> None:
    plain = settings(tmp_path)
    bare = settings(tmp_path, vector={"dim": 4, "noise": 1.0}, titles_and_categories=False)
    without_settings = {
        name: value for name, value in plain.items() if name not in ("vector", "titles_and_categories")
    }
    assert simulated.simulation_folder(without_settings) == simulated.simulation_folder(plain)
    for cfg in (plain, bare):
        simulated.table_files(cfg)
    for name in ("orders", "events", "truth"):
        a, b = (pq.read_table(simulated.simulation_folder(cfg) / f"{name}.parquet") for cfg in (plain, bare))
        assert a.equals(b), name
    items = [pq.read_table(simulated.simulation_folder(cfg) / "items.parquet") for cfg in (plain, bare)]
    assert "embedding" not in items[0].column_names
    assert items[1]["embedding"].type.list_size == 4
    assert items[1]["title"].null_count == items[1]["category"].null_count == items[1].num_rows
    with pytest.raises(DataError, match=r"data\.vector\.noise is -1"):
        simulated.simulation_folder(settings(tmp_path, vector={"noise": -1}))
