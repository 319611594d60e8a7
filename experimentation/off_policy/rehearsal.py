"""Off-policy evaluation of a real bundle on the simulated market, where its true value is known.

    python -m experimentation.off_policy simulate
    python -m experimentation.off_policy simulate --organic-share 0.5

    simulated shop ─ until TRAINING_END ─▶ train.py ─▶ export.py, twice ─▶ champion and challenger
                   ╰ afterwards ▶ the champion answers and explores; shoppers click ─▶ log ─▶ estimate

The challenger has the champion's models but orders by p(purchase), not by expected value. Clicks are drawn
from the true probabilities (docs/explanation/simulated_market.md). Only clicks are compared, because the
purchases in the simulator's next orders depend on the simulator's own slates.

With organic demand, the challenger orders by incremental value (tasks=incremental), and the share WITHHOLD of
the champion's slates is withheld. Purchases are drawn too. Items of the champion's slates are removed from
the simulator's next orders, and the items bought from the slates are added. Attributed and incremental
revenue are compared.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from tqdm import tqdm

from data.feature_schema import FeatureSchema
from data.io.code_hash import ROOT
from data.sources import simulated
from experimentation.off_policy import logged_checkouts
from experimentation.off_policy.estimators import LOG_MEAN
from experimentation.off_policy.incremental import INCREMENTAL_REVENUE
from experimentation.off_policy.replaced_purchases import replace_purchases
from experimentation.off_policy.replay import replay
from reporting.tables import text_table
from serving import Checkout, ImpressionLog, Line, Recommender, Slate, open_store
from serving.files import write_json
from serving.progress import ProgressReporter
from serving.stores.loading import bulk_load
from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START
from training.config_files import CONFIG_DIR

Array = np.ndarray
Row = dict[str, Any]
FOLDER = ROOT / "artifacts" / "off_policy"
SIMULATION_SETTINGS = {"users": 500, "items": 300, "days": 180}
TRAINING_END = SIMULATION_START + 110 * SECONDS_PER_DAY  # of champion and challenger
EXPLORATION_RATE = 0.2
WITHHOLD = 0.3  # of the champion's slates, with organic demand
CHALLENGER_OVERRIDE = "bundle.slate.revenue_weight=0"
INCREMENTAL_OVERRIDES = (
    "bundle.slate.objective='purchase * value'", "bundle.slate.objective='uplift * value'"
)  # fmt: skip


class SlateTruth(NamedTuple):
    """True expected outcomes of slots [n, K], given the position of each slot; 0 for an empty slot."""

    click: Array  # p(click)
    bought_if_clicked: Array
    bought_if_not_clicked: Array
    bought_if_withheld: Array
    attributed: Array  # revenue of what is bought after a click
    incremental: Array  # revenue of what is bought because of the slot
    spend: Array  # of a purchase


def rehearse(out: Path, organic_share: float | None = None) -> list[Row]:
    """Return the estimated and the true rewards of the challenger; write them, and the estimate's page.

    `organic_share` is the share of purchases of shown items that would have happened without the slot.
    """
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg: dict[str, Any] = dict(compose("train", overrides=["data=simulated"]).data)
    cfg |= SIMULATION_SETTINGS | {"root": str(FOLDER / "simulated")}
    if organic_share is not None:
        cfg["organic"] = {**cfg["organic"], "share": organic_share}
        cfg["withhold"] = WITHHOLD  # of the simulator's own slates, from which the challenger learns
    files = {name: file.path for name, file in simulated.table_files(cfg).items()}
    champion, challenger = _train_and_export(files, organic_share is not None)
    shop = _serve_champion(cfg, files, champion)
    store = shop.parent / "store.db"
    _run("-m", "experimentation.off_policy", "estimate", "--shop", str(shop), "--bundle", str(challenger),
         "--store", str(store), "--out", str(out))  # fmt: skip
    recommender = Recommender.load(challenger, open_store(store))
    bundle = recommender.bundle
    logged = logged_checkouts.read_logged_checkouts(shop, bundle.manifest, FeatureSchema.load(bundle.folder))
    replayed = replay(recommender, logged.checkouts)
    order = np.array([int(str(checkout.order_id)) for checkout in logged.checkouts])
    challenger_truth, champion_truth = (
        _mean_rewards(_slate_truth(cfg, order, slates.item)) for slates in (replayed, logged)
    )
    report = json.loads((out / "off_policy.json").read_text())
    columns = ("reward", "estimator", "shopper_model", "value", "low", "high", "verdict")
    rewards = ("click", "revenue", INCREMENTAL_REVENUE) if organic_share is not None else ("click",)
    rows = [
        {name: row[name] for name in columns}
        | {"truth": (champion_truth if row["estimator"] == LOG_MEAN else challenger_truth)[row["reward"]]}
        for row in report["rows"]
        if row["reward"] in rewards
    ]
    for row in rows:
        row["covers_truth"] = row["low"] is not None and row["low"] <= row["truth"] <= row["high"]
    settings = {"explore": EXPLORATION_RATE, "organic_share": organic_share}
    write_json(out / "off_policy_rehearsal.json", settings | {"rows": rows})
    print(text_table(rows))
    return rows


def _mean_rewards(truth: SlateTruth) -> dict[str, float]:
    """Return the true mean of each reward per checkout."""
    rewards = {"click": truth.click, "revenue": truth.attributed, INCREMENTAL_REVENUE: truth.incremental}
    return {name: float(values.sum(1).mean()) for name, values in rewards.items()}


def _train_and_export(files: dict[str, Path], has_organic_demand: bool) -> tuple[Path, Path]:
    """Train on the data before TRAINING_END; return the version folders of champion and challenger."""
    tasks = ["tasks=incremental"] if has_organic_demand else []
    overrides = INCREMENTAL_OVERRIDES if has_organic_demand else (
        "bundle.slate.revenue_weight=1", CHALLENGER_OVERRIDE
    )  # fmt: skip
    shop = FOLDER / "before"
    shop.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        table = pq.read_table(file)
        if "ts" in table.column_names:
            table = table.filter(pc.less(table["ts"], TRAINING_END))
        pq.write_table(table, shop / f"{name}.parquet")
    tracking = f"mlflow.tracking_uri=sqlite:///{FOLDER}/mlflow.db"
    _run("train.py", "experiment=simulated", "data=tables", f"data.root={shop}", "data.horizon=next_order",
         f"paths.prepared={FOLDER}/prepared", "trainer.progress=false", f"paths.runs={FOLDER}/runs",
         tracking, *tasks)  # fmt: skip
    bundles = []
    for name, override in zip(("champion", "challenger"), overrides, strict=True):
        _run("export.py", f"run={FOLDER}/runs/latest", f"bundle.dir={FOLDER / name}", tracking, override)
        bundles.append((FOLDER / name / "current").resolve())
    return bundles[0], bundles[1]


def _serve_champion(cfg: dict[str, Any], files: dict[str, Path], version: Path) -> Path:
    """Return a shop's folder with all orders, and the log of the champion after TRAINING_END."""
    shop = FOLDER / "after" / "shop"
    shutil.rmtree(shop.parent, ignore_errors=True)
    shop.mkdir(parents=True)
    for name in ("orders", "items", "users"):
        shutil.copy(files[name], shop)
    store = open_store(shop.parent / "store.db")
    bulk_load(store, shop, ProgressReporter().update)
    champion = Recommender.load(version, store)
    champion.exploration_rate, champion.rng = EXPLORATION_RATE, np.random.default_rng(0)
    rows = pq.read_table(files["orders"], filters=[("ts", ">=", TRAINING_END)]).to_pylist()
    rows_by_order: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        rows_by_order.setdefault(row["order_id"], []).append(row)
    checkouts, slates = [], []
    for order, order_rows in tqdm(rows_by_order.items(), desc="champion", unit="checkout"):
        basket = [Line(str(row["item_id"]), row["quantity"], row["price"]) for row in order_rows]
        user, ts = str(order_rows[0]["user_id"]), order_rows[0]["ts"]
        checkouts.append(Checkout(user, basket, ts, order_id=str(order)))
        slates.append(champion.recommend(checkouts[-1], deadline_ms=10_000))
    order = np.array(list(rows_by_order))
    item = np.array([[slate_item.item_id for slate_item in slate.items] for slate in slates], object)
    truth, rng = _slate_truth(cfg, order, item), np.random.default_rng(1)
    clicked, withhold = rng.random(item.shape) < truth.click, cfg.get("withhold") or 0.0
    is_withheld = np.zeros(len(order), bool)
    if withhold:
        is_withheld = rng.random(len(order)) < withhold
        clicked &= ~is_withheld[:, None]
        p_bought = np.where(clicked, truth.bought_if_clicked, truth.bought_if_not_clicked)
        p_bought = np.where(is_withheld[:, None], truth.bought_if_withheld, p_bought)
        bought = rng.random(item.shape) < p_bought
        orders = replace_purchases(
            pq.read_table(files["orders"]), order, _item_numbers(item), bought, truth.spend
        )
        pq.write_table(orders, shop / "orders.parquet")
    slates = [
        replace(slate, withheld=bool(held_back)) for slate, held_back in zip(slates, is_withheld, strict=True)
    ]
    _write_log(shop / "events", checkouts, slates, clicked, withhold)
    return shop


def _write_log(
    folder: Path, checkouts: list[Checkout], slates: list[Slate], clicks: Array, withhold: float
) -> None:
    log = ImpressionLog(folder, capacity=clicks.size + len(slates))  # all at once
    for checkout, slate, clicked in zip(checkouts, slates, clicks, strict=True):
        log.log_slate(checkout, slate, withhold=withhold)
        for slot in np.flatnonzero(clicked):
            item_id, ts = slate.items[slot].item_id, int(checkout.ts or 0)
            log.log_feedback("click", slate.request_id, item_id, ts + 60)
    log.close()


def _item_numbers(item: Array) -> Array:
    """Return the item numbers of item ids [n, K]; -1 stands for an empty slot."""
    return np.where(item.astype(bool), item, "-1").astype(np.int64)


def _slate_truth(cfg: dict[str, Any], order: Array, item: Array) -> SlateTruth:
    """Return the truth of items [n, K] at their slots after the orders [n]."""
    number = _item_numbers(item)
    is_filled = number >= 0
    pairs = np.repeat(order, item.shape[1]), number.clip(0).ravel()
    truth = simulated.ground_truth(cfg, *pairs)
    examination = behaviour.examination_probability(item.shape[1], cfg["position_bias"])
    p_click, p_conversion, p_shown, p_not_shown, value, added_value = (
        np.nan_to_num(column).reshape(item.shape) * is_filled
        for column in (
            truth.p_click_given_examined,
            truth.p_purchase_given_click,
            truth.p_purchase_shown,
            truth.p_purchase_not_shown,
            truth.expected_value,
            truth.incremental_value,
        )
    )
    at_position = examination * p_click
    bought_and_clicked = at_position * p_conversion
    p_bought = p_not_shown + examination * (p_shown - p_not_shown)
    return SlateTruth(
        click=at_position,
        bought_if_clicked=p_conversion,
        bought_if_not_clicked=(p_bought - bought_and_clicked) / np.maximum(1 - at_position, 1e-12),
        bought_if_withheld=p_not_shown,
        attributed=examination * value,
        incremental=examination * added_value,
        spend=value / np.maximum(p_click * p_conversion, 1e-12),
    )


def _run(*command: str) -> None:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
