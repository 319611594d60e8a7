"""Off-policy evaluation of a real bundle on the simulated market, where its true value is known.

    python -m experimentation.off_policy simulate

    simulated shop ─ until TRAINING_END ─▶ train.py ─▶ export.py, twice ─▶ champion and challenger
                   ╰ after it ──▶ the champion answers and explores; shoppers click ─▶ log ─▶ estimate

The challenger has the champion's models and orders by p(purchase), not by expected value. Clicks are drawn
from the true probabilities (docs/simulated.md). Only clicks are compared: purchases in the simulator's next
orders follow the simulator's own slates.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from experimentation.off_policy.replay import replay
from reporting.tables import text_table
from serving import Checkout, ImpressionLog, Line, Recommender, Slate, open_store
from serving.files import write_json
from serving.progress import ProgressReporter
from serving.stores.loading import bulk_load
from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START
from training.config import CONFIG_DIR

Array = np.ndarray
Row = dict[str, Any]
FOLDER = ROOT / "artifacts" / "off_policy"
SIMULATION_SETTINGS = {"users": 500, "items": 300, "days": 180}
TRAINING_END = SIMULATION_START + 110 * SECONDS_PER_DAY  # of champion and challenger
EXPLORATION_RATE = 0.2
CHALLENGER_OVERRIDE = "bundle.slate.revenue_weight=0"


def rehearse(out: Path) -> list[Row]:
    """Return estimates of the challenger's clicks with their truth; write them and the estimate's page."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = dict(compose("train", overrides=["data=simulated"]).data)
    cfg |= SIMULATION_SETTINGS | {"root": str(FOLDER / "simulated")}
    files = simulated.table_files(cfg)
    champion, challenger = _train_and_export(files)
    shop = _serve_champion(cfg, files, champion)
    store = shop.parent / "store.db"
    _run("-m", "experimentation.off_policy", "estimate", "--shop", str(shop), "--bundle", str(challenger),
         "--store", str(store), "--out", str(out))  # fmt: skip
    recommender = Recommender.load(challenger, open_store(store))
    bundle = recommender.bundle
    logged = logged_checkouts.read_logged_checkouts(shop, bundle.manifest, FeatureSchema.load(bundle.folder))
    replayed = replay(recommender, logged.checkouts)
    order = np.array([int(str(checkout.order_id)) for checkout in logged.checkouts])
    challenger_value, champion_value = (
        float(_true_click_probabilities(cfg, order, slates.item).sum(1).mean())
        for slates in (replayed, logged)
    )
    report = json.loads((out / "off_policy.json").read_text())
    columns = ("estimator", "shopper_model", "value", "low", "high", "verdict")
    rows = [
        {name: row[name] for name in columns}
        | {"truth": champion_value if row["estimator"] == LOG_MEAN else challenger_value}
        for row in report["rows"]
        if row["reward"] == "click"
    ]
    for row in rows:
        row["covers_truth"] = row["low"] is not None and row["low"] <= row["truth"] <= row["high"]
    write_json(out / "off_policy_rehearsal.json", {"explore": EXPLORATION_RATE, "rows": rows})
    print(text_table(rows))
    return rows


def _train_and_export(files: dict[str, Path]) -> tuple[Path, Path]:
    """Train on the data before TRAINING_END; return the version folders of champion and challenger."""
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
         tracking)  # fmt: skip
    bundles = []
    for name, override in (
        ("champion", "bundle.slate.revenue_weight=1"),
        ("challenger", CHALLENGER_OVERRIDE),
    ):
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
    item = np.array([[slate_item.item_id for slate_item in slate.items] for slate in slates], object)
    p_click = _true_click_probabilities(cfg, np.array(list(rows_by_order)), item)
    clicks = np.random.default_rng(1).random(p_click.shape) < p_click
    _write_log(shop / "events", checkouts, slates, clicks)
    return shop


def _write_log(folder: Path, checkouts: list[Checkout], slates: list[Slate], clicks: Array) -> None:
    log = ImpressionLog(folder, capacity=clicks.size + len(slates))  # all at once
    for checkout, slate, clicked in zip(checkouts, slates, clicks, strict=True):
        log.log_slate(checkout, slate)
        for slot in np.flatnonzero(clicked):
            item_id, ts = slate.items[slot].item_id, int(checkout.ts or 0)
            log.log_feedback("click", slate.request_id, item_id, ts + 60)
    log.close()


def _true_click_probabilities(cfg: dict[str, Any], order: Array, item: Array) -> Array:
    """True p(click) of items [n, K] at their slots after the orders [n]; 0 for an empty slot."""
    is_filled = item.astype(bool)
    item_code = np.where(is_filled, item, "0").astype(np.int64)
    truth = simulated.ground_truth(cfg, np.repeat(order, item.shape[1]), item_code.ravel())
    examination = behaviour.examination_probability(item.shape[1], cfg["position_bias"])
    return truth.p_click_given_examined.reshape(item.shape) * examination * is_filled


def _run(*command: str) -> None:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
