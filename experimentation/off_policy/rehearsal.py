"""The whole way on the simulated marketplace, where the truth of a bundle that nobody saw is known.

    python -m experimentation.off_policy rehearse

    simulated shop ─ until CUT ─▶ train.py ─▶ export.py, twice ─▶ champion and challenger
                   ╰ after it ──▶ the champion answers, explores and is clicked ─▶ impression log ─▶ estimate

The challenger has the champion's models and orders by p(purchase), not by expected value. Clicks are drawn
from the truth of every pair (docs/simulated.md), and the challenger's estimates are held against it. Only
clicks are: what is bought in the simulator's next orders follows its own slates.
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
from data.sources import simulated
from experimentation.off_policy import logged_checkouts
from experimentation.off_policy.replay import replay
from reporting.tables import text_table
from serving import Checkout, ImpressionLog, Line, Recommender, open_store
from serving.files import write_json
from serving.progress import ProgressReporter
from serving.stores.loading import bulk_load
from simulation import behaviour
from simulation.catalog import SECONDS_PER_DAY, SIMULATION_START
from training.config import CONFIG_DIR
from training.stage_folders import ROOT

Array = np.ndarray
Row = dict[str, Any]
FOLDER = ROOT / "artifacts" / "off_policy"
SIMULATION_SETTINGS = {"users": 500, "items": 300, "days": 180}
TRAINING_END = SIMULATION_START + 110 * SECONDS_PER_DAY  # champion and challenger know what happened before
EXPLORATION_RATE = 0.2
CHALLENGER_OVERRIDE = "bundle.slate.revenue_weight=0"


def rehearse(out: Path) -> list[Row]:
    """Estimates of the challenger's clicks beside their truth; writes them and the page of the estimate."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = dict(compose("train", overrides=["data=simulated"]).data)
    cfg |= SIMULATION_SETTINGS | {"root": str(FOLDER / "simulated")}
    files = simulated.table_files(cfg)
    champion, challenger = _bundles(files)
    shop = _serve_champion(cfg, files, champion)
    store = shop.parent / "store.db"
    _run("-m", "experimentation.off_policy", "estimate", "--shop", str(shop), "--bundle", str(challenger),
         "--store", str(store), "--out", str(out))  # fmt: skip
    recommender = Recommender.load(challenger, open_store(store))
    bundle = recommender.bundle
    logged = logged_checkouts.read_logged_checkouts(shop, bundle.manifest, FeatureSchema.load(bundle.folder))
    new = replay(recommender, logged.checkouts)
    order = np.array([int(str(checkout.order_id)) for checkout in logged.checkouts])
    clicked, like = (
        _true_click_probabilities(cfg, order, new.item),
        _true_click_probabilities(cfg, order, logged.item),
    )
    truth, before = float(clicked.sum(1).mean()), float(like.sum(1).mean())
    report = json.loads((out / "off_policy.json").read_text())
    rows = [
        {name: row[name] for name in ("estimator", "weights", "value", "low", "high", "verdict")}
        | {"truth": before if row["estimator"] == "logged" else truth}
        for row in report["rows"]
        if row["reward"] == "click"
    ]
    for row in rows:
        row["holds"] = row["low"] is not None and row["low"] <= row["truth"] <= row["high"]
    write_json(out / "off_policy_rehearsal.json", {"explore": EXPLORATION_RATE, "rows": rows})
    print(text_table(rows))
    return rows


def _bundles(files: dict[str, Path]) -> tuple[Path, Path]:
    """Champion and challenger, trained on what was there before CUT and exported."""
    shop = FOLDER / "before"
    shop.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        table = pq.read_table(file)
        if "ts" in table.column_names:
            table = table.filter(pc.less(table["ts"], TRAINING_END))
        pq.write_table(table, shop / f"{name}.parquet")
    places = [f"paths.runs={FOLDER}/runs", f"mlflow.tracking_uri=sqlite:///{FOLDER}/mlflow.db"]
    _run("train.py", "experiment=simulated", "data=tables", f"data.root={shop}", "data.horizon=next_order",
         f"paths.prepared={FOLDER}/prepared", "trainer.progress=false", *places)  # fmt: skip
    bundles = []
    for name, change in (("champion", "bundle.slate.revenue_weight=1"), ("challenger", CHALLENGER_OVERRIDE)):
        _run("export.py", f"run={FOLDER}/runs/latest", f"bundle.dir={FOLDER / name}", places[1], change)
        bundles.append((FOLDER / name / "current").resolve())
    return bundles[0], bundles[1]


def _serve_champion(cfg: dict[str, Any], files: dict[str, Path], version: Path) -> Path:
    """A shop's folder with all orders, and the log of a bundle that answered those after CUT."""
    shop = FOLDER / "after" / "shop"
    shutil.rmtree(shop.parent, ignore_errors=True)
    shop.mkdir(parents=True)
    for name in ("orders", "items", "users"):
        shutil.copy(files[name], shop)
    store = open_store(shop.parent / "store.db")
    bulk_load(store, shop, ProgressReporter().update)
    champion = Recommender.load(version, store)
    champion.exploration_rate, champion.rng = EXPLORATION_RATE, np.random.default_rng(0)
    lines = pq.read_table(files["orders"], filters=[("ts", ">=", TRAINING_END)]).to_pylist()
    baskets: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        baskets.setdefault(line["order_id"], []).append(line)
    asked, slates = [], []
    for order, some in tqdm(baskets.items(), desc="champion", unit="checkout"):
        basket = [Line(str(line["item_id"]), line["quantity"], line["price"]) for line in some]
        asked.append(Checkout(str(some[0]["user_id"]), basket, some[0]["ts"], order_id=str(order)))
        slates.append(champion.recommend(asked[-1], deadline_ms=10_000))
    item = np.array([[shown.item_id for shown in slate.items] for slate in slates], object)
    chance, rng = _true_click_probabilities(cfg, np.array(list(baskets)), item), np.random.default_rng(1)
    clicks = rng.random(chance.shape) < chance
    with_log = ImpressionLog(shop / "events", capacity=item.size + len(slates))  # all at once
    for checkout, slate, clicked in zip(asked, slates, clicks, strict=True):
        with_log.log_slate(checkout, slate)
        for place in np.flatnonzero(clicked):
            item_id, ts = slate.items[place].item_id, int(checkout.ts or 0)
            with_log.log_feedback("click", slate.request_id, item_id, ts + 60)
    with_log.close()
    return shop


def _true_click_probabilities(cfg: dict[str, Any], order: Array, item: Array) -> Array:
    """True p(click) of items [n, K] at their slots after the orders [n]; 0 for an empty slot."""
    there = item.astype(bool)
    number = np.where(there, item, "0").astype(np.int64)
    pairs = simulated.ground_truth(cfg, np.repeat(order, item.shape[1]), number.ravel())
    seen = behaviour.examination_probability(item.shape[1], cfg["position_bias"])
    return pairs.p_click_given_examined.reshape(item.shape) * seen * there


def _run(*command: str) -> None:
    print("python", *command, flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
