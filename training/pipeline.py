"""The stages of a training run, in order. Each has a folder of its own that later runs reuse."""

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf

from data.catalog import item_features
from data.errors import DataError
from data.examples.splits import SPLITS
from data.feature_schema import FeatureSchema
from data.io.batches import read_batches
from data.io.parquet import count_rows, slices
from data.prepare import prepare
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, ItemText
from training import candidates, tracking
from training.build_models import build_ranker, build_two_tower
from training.checkout_sampling import enough_epochs, share_of, unseen_by_retrieval
from training.distributed import processes
from training.distributed.sharding import build_and_load
from training.labels import rule
from training.ranker import RankerTask, predict
from training.retrieval import RetrievalTask, encode_items, positive_probability
from training.stage_folders import hold, is_done, mark_done, point_latest, read_done, stage_folder
from training.trainer import BEST, fit
from training.warm_start import Warm, learned_items, open_warm, since_warm, starting_weights

SLOTS = 6
LEAST_CHECKOUTS = 4  # both models need some


class Prepared(NamedTuple):
    """A prepared folder, opened."""

    folder: Path
    meta: dict[str, Any]
    sizes: dict[str, Any]
    catalog: Catalog
    text: ItemText


def run(cfg: DictConfig) -> Path:
    """Train what `cfg.stage` asks for and return the folder of the run."""
    processes.join(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    cfg = since_warm(cfg)
    prepared = open_prepared(processes.once(lambda: prepare(cfg)))
    warm = open_warm(cfg, prepared.folder)
    folder = train_retrieval(cfg, prepared, warm)
    if cfg.stage != "retrieval":
        retrieval = folder
        gathered = processes.once(lambda: gather_candidates(cfg, prepared, retrieval))
        folder = train_ranker(cfg, prepared, retrieval, gathered, warm)
        if processes.rank() == 0:
            point_latest(cfg.paths.runs, folder)
            print(f"run: {folder}")
    return folder


def open_prepared(folder: Path) -> Prepared:
    """Read schema, catalog and notes of a prepared folder. Raises DataError for too few items or rows."""
    catalog, text = item_features(folder)
    meta = json.loads((folder / "meta.json").read_text())
    available = int(catalog.available.sum())
    if available < SLOTS:
        raise DataError(
            f"{available} of {catalog.leaf.numel() - 1} items are available, a slate needs {SLOTS}. "
            "Check `available` in the items table"
        )
    train = meta["counts"]["checkouts"]["train"]
    if train < LEAST_CHECKOUTS:
        raise DataError(
            f"{train} checkouts to train on, at least {LEAST_CHECKOUTS} are needed: bring a longer log, "
            "shorten data.horizon or move data.split"
        )
    return Prepared(folder, meta, FeatureSchema.load(folder).sizes(), catalog, text)


def train_retrieval(cfg: DictConfig, prepared: Prepared, warm: Warm | None = None) -> Path:
    """Train the two towers; leaves `weights.pt` and the int8 item vectors `vectors.pt`."""
    folder = stage_folder(
        cfg.paths.runs,
        "retrieval",
        cfg.retrieval.model,
        cfg.retrieval.train,
        cfg.trainer.precision,
        cfg.seed,
        prepared.folder.name,
        *([warm.name] if warm else []),
    )
    lock = hold(folder) if processes.rank() == 0 else None
    if processes.once(lambda: is_done(folder)):
        return folder
    settings = cfg.retrieval.train
    tags = {"stage": "retrieval", "data": prepared.folder.name}
    run_id = processes.once(lambda: tracking.start(cfg, folder, tags))
    file = prepared.folder / "examples" / "train.parquet"
    early = share_of(count_rows(file), settings.share)
    build = partial(build_two_tower, cfg, prepared.sizes)
    start = starting_weights(build, warm.towers, warm.rows) if warm else None
    chance = positive_probability(file, early, prepared.sizes["items"], settings.positives)
    trained = chance > 0 if warm is None else (chance > 0) | learned_items(warm)
    task = RetrievalTask(
        build, prepared.catalog, prepared.text, training_price(prepared), chance, trained,
        settings.learning_rate, settings.table_learning_rate, settings.temperature,
        settings.positives, settings.uniform, settings.user_dropout, cfg.seed, cfg.trainer.sharding, start,
    )  # fmt: skip
    share: dict[str, Any] = {"rank": processes.rank(), "world_size": processes.world()}
    events = cfg.retrieval.model.query.max_events
    train = read_batches(
        file,
        settings.batch_size,
        max_history=events,
        seed=cfg.seed,
        shuffle=True,
        stop=early,
        **share,
    )
    validation = read_batches(
        prepared.folder / "examples" / "validation.parquet", 512, max_history=events, **share
    )
    metrics = fit(
        cfg, task, train, validation, folder, tracking.logger(cfg, run_id, "retrieval"),
        monitor="recall_300", mode="max", epochs=enough_epochs(settings, len(train)),
        patience=settings.patience,
    )  # fmt: skip
    model = build_and_load(build, folder / BEST)  # every process takes part
    if lock is not None:
        torch.save(model.state_dict(), folder / "weights.pt")
        vectors = encode_items(model, prepared.catalog, prepared.text, training_price(prepared))
        torch.save(vectors, folder / "vectors.pt")
        save_config(cfg, folder)
        home = from_here(prepared.folder, folder)
        mark_done(folder, {"metrics": metrics, "prepared": home, "mlflow_run_id": run_id})
        if cfg.stage == "retrieval":
            tracking.finish(cfg, run_id, {}, [folder / "config.yaml"])
        lock.close()
    return folder


def training_price(prepared: Prepared) -> torch.Tensor:
    """[N+1] prices as of the last snapshot before validation: what the item tower may know."""
    dates = torch.tensor(prepared.meta["snapshot_dates"])
    last = int((dates <= prepared.meta["split"]["validation_start"]).sum()) - 1
    return prepared.catalog.price[max(last, 0)]


def load_frozen(cfg: DictConfig, prepared: Prepared, retrieval: Path) -> tuple[QueryTower, Catalog]:
    """The trained query tower over int8 item vectors, as it serves, and the catalog with those vectors."""
    towers = build_two_tower(cfg, prepared.sizes)
    towers.load_state_dict(torch.load(retrieval / "weights.pt"))
    tower = QueryTower(towers.query, towers.attributes).eval()
    return tower, prepared.catalog._replace(vectors=torch.load(retrieval / "vectors.pt"))


def gather_candidates(
    cfg: DictConfig,
    prepared: Prepared,
    retrieval: Path,
    splits: tuple[str, ...] = SPLITS,
) -> Path:
    """Candidates of the checkouts that the ranker learns from, and of validation and test."""
    folder = stage_folder(
        cfg.paths.runs,
        "candidates",
        cfg.retrieval.sources,
        cfg.retrieval.train.share,
        cfg.ranker.train.max_checkouts,
        retrieval.name,
        splits,
    )
    lock = hold(folder)
    if is_done(folder):
        return folder
    tower, catalog = load_frozen(cfg, prepared, retrieval)
    tables = candidates.related(prepared.folder, prepared.sizes["items"])
    found = {}
    for split in splits:
        examples = prepared.folder / "examples" / f"{split}.parquet"
        rows, start = count_rows(examples), 0
        if split == "train":
            learned = share_of(rows, cfg.retrieval.train.share)
            start = unseen_by_retrieval(examples, learned, prepared.meta["horizon"])
            start = max(start, rows - cfg.ranker.train.max_checkouts)
        found[split] = candidates.gather(
            cfg,
            slices(examples, None, start, rows, candidates.ROWS),
            rows - start,
            tower,
            catalog,
            tables,
            prepared.meta["snapshot_dates"],
            folder / f"{split}.parquet",
        )
    mark_done(folder, {"recall": found})
    lock.close()
    return folder


def train_ranker(
    cfg: DictConfig, prepared: Prepared, retrieval: Path, gathered: Path, warm: Warm | None = None
) -> Path:
    """Train and calibrate the ranker; leaves `weights.pt`, the resolved config and pointers to the rest."""
    folder = stage_folder(
        cfg.paths.runs, "ranker", cfg.ranker, cfg.trainer.precision, cfg.seed, gathered.name
    )
    lock = hold(folder) if processes.rank() == 0 else None
    if processes.once(lambda: is_done(folder)):
        return folder
    settings = cfg.ranker.train
    tags = {"stage": cfg.stage, "data": prepared.folder.name}
    run_id = processes.once(lambda: tracking.start(cfg, folder, tags))
    tower, catalog = load_frozen(cfg, prepared, retrieval)
    build = partial(build_ranker, cfg, prepared.sizes)
    start = starting_weights(build, warm.ranker, warm.rows) if warm else None
    meaning = rule(prepared.meta)
    share: dict[str, Any] = {"rank": processes.rank(), "world_size": processes.world()}
    train = read_batches(
        gathered / "train.parquet", settings.batch_size, seed=cfg.seed, shuffle=True, **share
    )
    validation = read_batches(gathered / "validation.parquet", 256, **share)
    epochs = enough_epochs(settings, len(train))
    steps = len(train) * epochs
    task = RankerTask(
        build, tower, catalog, meaning, settings, steps, cfg.seed, folder, cfg.trainer.sharding, start
    )
    started = time.monotonic()
    metrics = fit(
        cfg, task, train, validation, folder, tracking.logger(cfg, run_id, "ranker"),
        monitor="val_loss", mode="min", epochs=epochs, patience=settings.patience,
    )  # fmt: skip
    seconds = time.monotonic() - started  # of this process: less than all for a run that was resumed
    ranker = build_and_load(build, folder / BEST)  # every process takes part
    if lock is None:
        return folder
    # The last validation saw what calibration needs, if its weights are those that are kept.
    if task.seen and metrics["val_loss"] == metrics["best_val_loss"] and cfg.trainer.precision == "32-true":
        logits, labels = task.seen
    else:
        tower, catalog = load_frozen(cfg, prepared, retrieval)  # the trainer may have moved the others
        whole = read_batches(gathered / "validation.parquet", 256)
        logits, labels = predict(ranker, tower, catalog, whole, meaning)
    bias = ranker.position if meaning.impressions else None
    ranker.calibration.fit(logits, labels.click, labels.purchase, labels.value, labels.position, bias)
    torch.save(ranker.state_dict(), folder / "weights.pt")
    save_config(cfg, folder)
    notes = {
        "metrics": metrics,
        "training_seconds": seconds,
        "prepared": from_here(prepared.folder, folder),
        "retrieval": from_here(retrieval, folder),
        "candidates": from_here(gathered, folder),
        "mlflow_run_id": run_id,
        "recall": read_done(gathered)["recall"],
    }
    mark_done(folder, notes)
    tracking.finish(
        cfg, run_id, tracking.summary(read_done(retrieval)["metrics"], "retrieval"), [folder / "config.yaml"]
    )
    lock.close()
    return folder


def from_here(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that a project can be moved with its runs."""
    return os.path.relpath(path, folder)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The resolved config, beside the weights it made."""
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
