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

from data.catalog import load_catalog
from data.errors import DataError
from data.examples.splits import SPLITS
from data.feature_schema import FeatureSchema
from data.io.batches import read_batches
from data.io.parquet import count_rows, iter_slices
from data.prepare import prepare
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog, ItemText
from training import candidates, tracking
from training.build_models import build_ranker, build_two_tower
from training.checkout_sampling import count_epochs, count_retrieval_rows, first_ranker_row
from training.distributed import processes
from training.distributed.sharding import build_and_load
from training.labels import label_policy_from_meta
from training.ranker import RankerTask, predict
from training.retrieval import RetrievalTask, encode_items, positive_probability
from training.stage_folders import (
    is_done,
    lock_folder,
    read_stage_manifest,
    stage_folder,
    update_latest_link,
    write_stage_manifest,
)
from training.trainer import BEST_CHECKPOINT, fit
from training.warm_start import (
    WarmStart,
    load_warm_start,
    trained_item_mask,
    warm_start_weights,
    with_training_window,
)

SLATE_SIZE = 6
MIN_TRAIN_CHECKOUTS = 4  # both models need some


class PreparedData(NamedTuple):
    """A prepared folder, opened."""

    folder: Path
    meta: dict[str, Any]
    table_sizes: dict[str, Any]
    catalog: Catalog
    text: ItemText


def train_models(cfg: DictConfig) -> Path:
    """Train what `cfg.stage` asks for and return the folder of the run."""
    processes.init_processes(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    cfg = with_training_window(cfg)
    prepared = open_prepared(processes.on_rank_zero(lambda: prepare(cfg)))
    warm = load_warm_start(cfg, prepared.folder)
    folder = train_retrieval(cfg, prepared, warm)
    if cfg.stage != "retrieval":
        retrieval = folder
        gathered = processes.on_rank_zero(lambda: gather_candidates(cfg, prepared, retrieval))
        folder = train_ranker(cfg, prepared, retrieval, gathered, warm)
        if processes.rank() == 0:
            update_latest_link(cfg.paths.runs, folder)
            print(f"run: {folder}")
    return folder


def open_prepared(folder: Path) -> PreparedData:
    """Read schema, catalog and notes of a prepared folder. Raises DataError for too few items or rows."""
    catalog, text = load_catalog(folder)
    meta = json.loads((folder / "meta.json").read_text())
    available = int(catalog.available.sum())
    if available < SLATE_SIZE:
        raise DataError(
            f"{available} of {catalog.leaf.numel() - 1} items are available, a slate needs {SLATE_SIZE}. "
            "Check `available` in the items table"
        )
    train = meta["counts"]["checkouts"]["train"]
    if train < MIN_TRAIN_CHECKOUTS:
        raise DataError(
            f"{train} checkouts to train on, at least {MIN_TRAIN_CHECKOUTS} are needed: bring a longer log, "
            "shorten data.horizon or move data.split"
        )
    return PreparedData(folder, meta, FeatureSchema.load(folder).table_sizes(), catalog, text)


def train_retrieval(cfg: DictConfig, prepared: PreparedData, warm: WarmStart | None = None) -> Path:
    """Train the two towers; leaves `weights.pt` and the int8 item vectors `vectors.pt`."""
    folder = stage_folder(
        cfg.paths.runs,
        "retrieval",
        cfg.retrieval.model,
        cfg.retrieval.train,
        cfg.trainer.precision,
        cfg.seed,
        prepared.folder.name,
        *([warm.run_name] if warm else []),
    )
    lock = lock_folder(folder) if processes.rank() == 0 else None
    if processes.on_rank_zero(lambda: is_done(folder)):
        return folder
    settings = cfg.retrieval.train
    tags = {"stage": "retrieval", "data": prepared.folder.name}
    run_id = processes.on_rank_zero(lambda: tracking.start_run(cfg, folder, tags))
    file = prepared.folder / "examples" / "train.parquet"
    early = count_retrieval_rows(count_rows(file), settings.share)
    build = partial(build_two_tower, cfg, prepared.table_sizes)
    start = warm_start_weights(build, warm.tower_weights, warm.previous_rows) if warm else None
    chance = positive_probability(file, early, prepared.table_sizes["items"], settings.positives)
    trained = chance > 0 if warm is None else (chance > 0) | trained_item_mask(warm)
    task = RetrievalTask(
        build, prepared.catalog, prepared.text, training_prices(prepared), chance, trained,
        settings.learning_rate, settings.table_learning_rate, settings.temperature,
        settings.positives, settings.uniform_negatives, settings.user_dropout, cfg.seed, cfg.trainer.sharding,
        start,
    )  # fmt: skip
    share: dict[str, Any] = {"rank": processes.rank(), "world_size": processes.world_size()}
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
        cfg, task, train, validation, folder, tracking.make_logger(cfg, run_id, "retrieval"),
        monitor="recall_300", mode="max", epochs=count_epochs(settings, len(train)),
        patience=settings.patience,
    )  # fmt: skip
    model = build_and_load(build, folder / BEST_CHECKPOINT)  # every process takes part
    if lock is not None:
        torch.save(model.state_dict(), folder / "weights.pt")
        vectors = encode_items(model, prepared.catalog, prepared.text, training_prices(prepared))
        torch.save(vectors, folder / "vectors.pt")
        save_config(cfg, folder)
        home = relative_path(prepared.folder, folder)
        write_stage_manifest(folder, {"metrics": metrics, "prepared": home, "mlflow_run_id": run_id})
        if cfg.stage == "retrieval":
            tracking.finish_run(cfg, run_id, {}, [folder / "config.yaml"])
        lock.close()
    return folder


def training_prices(prepared: PreparedData) -> torch.Tensor:
    """[N+1] prices as of the last snapshot before validation: what the item tower may know."""
    dates = torch.tensor(prepared.meta["snapshot_dates"])
    last = int((dates <= prepared.meta["split"]["validation_start"]).sum()) - 1
    return prepared.catalog.price[max(last, 0)]


def load_query_tower(cfg: DictConfig, prepared: PreparedData, retrieval: Path) -> tuple[QueryTower, Catalog]:
    """The trained query tower over int8 item vectors, as it serves, and the catalog with those vectors."""
    towers = build_two_tower(cfg, prepared.table_sizes)
    towers.load_state_dict(torch.load(retrieval / "weights.pt"))
    tower = QueryTower(towers.query_encoder, towers.attribute_embeddings).eval()
    return tower, prepared.catalog._replace(vectors=torch.load(retrieval / "vectors.pt"))


def gather_candidates(
    cfg: DictConfig,
    prepared: PreparedData,
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
    lock = lock_folder(folder)
    if is_done(folder):
        return folder
    tower, catalog = load_query_tower(cfg, prepared, retrieval)
    tables = candidates.load_neighbour_tables(prepared.folder, prepared.table_sizes["items"])
    found = {}
    for split in splits:
        examples = prepared.folder / "examples" / f"{split}.parquet"
        rows, start = count_rows(examples), 0
        if split == "train":
            learned = count_retrieval_rows(rows, cfg.retrieval.train.share)
            start = first_ranker_row(examples, learned, prepared.meta["horizon"])
            start = max(start, rows - cfg.ranker.train.max_checkouts)
        found[split] = candidates.write_candidates(
            cfg,
            iter_slices(examples, None, start, rows, candidates.CHECKOUTS_PER_CHUNK),
            rows - start,
            tower,
            catalog,
            tables,
            prepared.meta["snapshot_dates"],
            folder / f"{split}.parquet",
        )
    write_stage_manifest(folder, {"recall": found})
    lock.close()
    return folder


def train_ranker(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    candidates_folder: Path,
    warm: WarmStart | None = None,
) -> Path:
    """Train and calibrate the ranker; leaves `weights.pt`, the resolved config and pointers to the rest."""
    folder = stage_folder(
        cfg.paths.runs, "ranker", cfg.ranker, cfg.trainer.precision, cfg.seed, candidates_folder.name
    )
    lock = lock_folder(folder) if processes.rank() == 0 else None
    if processes.on_rank_zero(lambda: is_done(folder)):
        return folder
    settings = cfg.ranker.train
    tags = {"stage": cfg.stage, "data": prepared.folder.name}
    run_id = processes.on_rank_zero(lambda: tracking.start_run(cfg, folder, tags))
    tower, catalog = load_query_tower(cfg, prepared, retrieval)
    build = partial(build_ranker, cfg, prepared.table_sizes)
    start = warm_start_weights(build, warm.ranker_weights, warm.previous_rows) if warm else None
    meaning = label_policy_from_meta(prepared.meta)
    share: dict[str, Any] = {"rank": processes.rank(), "world_size": processes.world_size()}
    train = read_batches(
        candidates_folder / "train.parquet", settings.batch_size, seed=cfg.seed, shuffle=True, **share
    )
    validation = read_batches(candidates_folder / "validation.parquet", 256, **share)
    epochs = count_epochs(settings, len(train))
    steps = len(train) * epochs
    task = RankerTask(
        build, tower, catalog, meaning, settings, steps, cfg.seed, folder, cfg.trainer.sharding, start
    )
    started = time.monotonic()
    metrics = fit(
        cfg, task, train, validation, folder, tracking.make_logger(cfg, run_id, "ranker"),
        monitor="val_loss", mode="min", epochs=epochs, patience=settings.patience,
    )  # fmt: skip
    seconds = time.monotonic() - started  # of this process: less than all for a run that was resumed
    ranker = build_and_load(build, folder / BEST_CHECKPOINT)  # every process takes part
    if lock is None:
        return folder
    # The last validation saw what calibration needs, if its weights are those that are kept.
    if (
        task.validation_outputs
        and metrics["val_loss"] == metrics["best_val_loss"]
        and cfg.trainer.precision == "32-true"
    ):
        logits, labels = task.validation_outputs
    else:
        tower, catalog = load_query_tower(cfg, prepared, retrieval)  # the trainer may have moved the others
        whole = read_batches(candidates_folder / "validation.parquet", 256)
        logits, labels = predict(ranker, tower, catalog, whole, meaning)
    bias = ranker.position_bias if meaning.has_impressions else None
    ranker.calibration.fit(logits, labels.click, labels.purchase, labels.value, labels.position, bias)
    torch.save(ranker.state_dict(), folder / "weights.pt")
    save_config(cfg, folder)
    notes = {
        "metrics": metrics,
        "training_seconds": seconds,
        "prepared": relative_path(prepared.folder, folder),
        "retrieval": relative_path(retrieval, folder),
        "candidates": relative_path(candidates_folder, folder),
        "mlflow_run_id": run_id,
        "recall": read_stage_manifest(candidates_folder)["recall"],
    }
    write_stage_manifest(folder, notes)
    tracking.finish_run(
        cfg,
        run_id,
        tracking.prefix_metrics(read_stage_manifest(retrieval)["metrics"], "retrieval"),
        [folder / "config.yaml"],
    )
    lock.close()
    return folder


def relative_path(path: Path, folder: Path) -> str:
    """`path` as seen from `folder`, so that a project can be moved with its runs."""
    return os.path.relpath(path, folder)


def save_config(cfg: DictConfig, folder: Path) -> None:
    """The resolved config, beside the weights it made."""
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
