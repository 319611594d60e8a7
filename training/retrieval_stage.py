"""The retrieval stage: two towers with their weights, and the int8 vectors of all items."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from data.io.batches import read_batches
from data.io.parquet import count_rows
from models.retrieval.two_tower import QueryTower, TwoTower
from models.schema import Catalog
from training import tracking
from training.build_two_tower import build_two_tower
from training.checkout_sampling import count_epochs, count_retrieval_rows, report_epochs
from training.distributed import processes
from training.distributed.sharding import build_and_load
from training.prepared_data import PreparedData, training_prices
from training.retrieval import (
    RetrievalTask,
    TrainingItems,
    encode_items,
    negative_items,
    positive_probability,
)
from training.run_files import (
    CONFIG_FILE,
    VECTORS_FILE,
    WEIGHTS_FILE,
    load_run_weights,
    relative_path,
    save_run_config,
)
from training.stage_folders import is_done, stage_folder, write_stage_manifest
from training.task_settings import TaskSettings
from training.trainer import BEST_CHECKPOINT, StoppingRule, fit
from training.warm_start import WarmStart, trained_item_mask, warm_start_weights

VALIDATION_BATCH_SIZE = 512  # checkouts


def train_retrieval(
    cfg: DictConfig,
    prepared: PreparedData,
    warm: WarmStart | None = None,
    before_training: Callable[[], None] = lambda: None,
) -> Path:
    """Train the two towers and return their folder, with their weights and the int8 item vectors.

    `before_training` is called unless they are trained already.
    """
    folder = stage_folder(
        cfg.paths.runs,
        "retrieval",
        __name__,
        cfg.retrieval.model,
        cfg.retrieval.train,
        cfg.trainer.precision,
        cfg.seed,
        prepared.folder.name,
        *([warm.run_name] if warm else []),
    )
    with processes.lock_on_rank_zero(folder):
        if not processes.on_rank_zero(lambda: is_done(folder)):
            before_training()
            _train_retrieval(cfg, prepared, warm, folder)
    return folder


def _train_retrieval(cfg: DictConfig, prepared: PreparedData, warm: WarmStart | None, folder: Path) -> None:
    train_settings = cfg.retrieval.train
    tags = {"stage": "retrieval", "data": prepared.folder.name}
    run_id = processes.on_rank_zero(lambda: tracking.start_run(cfg, folder, tags))
    examples = prepared.folder / "examples"
    n_rows = count_retrieval_rows(count_rows(examples / "train.parquet"), train_settings.share)
    build = partial(build_two_tower, cfg, prepared.table_sizes)
    weights = warm_start_weights(build, warm.tower_weights, warm.previous_rows) if warm else None
    items = _training_items(cfg, prepared, n_rows, warm)
    task = RetrievalTask(build, items, TaskSettings.of(cfg, train_settings, weights))
    stream = {"max_history": cfg.retrieval.model.query.get("max_events"), **processes.stream_share()}
    train = read_batches(
        examples / "train.parquet",
        train_settings.batch_size,
        seed=cfg.seed,
        shuffle=True,
        stop=n_rows,
        **stream,
    )
    validation = read_batches(examples / "validation.parquet", VALIDATION_BATCH_SIZE, **stream)
    epochs = count_epochs(train_settings, len(train))
    if processes.rank() == 0:
        report_epochs("retrieval", train_settings, epochs)
    stopping = StoppingRule(
        monitor="recall_300",
        mode="max",
        max_epochs=epochs,
        patience=train_settings.patience,
    )
    logger = tracking.make_logger(cfg, run_id, "retrieval")
    metrics = fit(cfg, task, train, validation, folder, logger, stopping)
    towers = build_and_load(build, folder / BEST_CHECKPOINT)  # every process takes part
    if processes.rank() > 0:
        return
    save_towers(towers, prepared, folder)
    save_run_config(cfg, folder)
    home = relative_path(prepared.folder, folder)
    write_stage_manifest(folder, {"metrics": metrics, "prepared": home, "mlflow_run_id": run_id})
    if cfg.stage == "retrieval":
        tracking.finish_run(cfg, run_id, {}, [folder / CONFIG_FILE])


def _training_items(
    cfg: DictConfig, prepared: PreparedData, n_rows: int, warm: WarmStart | None
) -> TrainingItems:
    """The catalog as the item tower sees it, for a training on the first `n_rows` examples.

    Raises ConfigError for a wrong `retrieval.train.negative_items`.
    """
    probability = positive_probability(
        prepared.folder / "examples" / "train.parquet",
        n_rows,
        prepared.table_sizes["items"],
        cfg.retrieval.train.positives,
    )
    trained_mask = probability > 0
    if warm is not None:
        trained_mask = trained_mask | trained_item_mask(warm)
    has_vectors = prepared.catalog.content.shape[1] > 0
    return TrainingItems(
        catalog=prepared.catalog,
        text=prepared.text,
        price=training_prices(prepared),
        probability=probability,
        trained_mask=trained_mask,
        negatives=negative_items(cfg.retrieval.train.negative_items, trained_mask, has_vectors),
    )


def save_towers(towers: TwoTower, prepared: PreparedData, folder: Path) -> None:
    """Write the weights of the two towers and the int8 vectors of all items."""
    torch.save(towers.state_dict(), folder / WEIGHTS_FILE)
    vectors = encode_items(towers, prepared.catalog, prepared.text, training_prices(prepared))
    torch.save(vectors, folder / VECTORS_FILE)


def load_query_tower(cfg: DictConfig, prepared: PreparedData, retrieval: Path) -> tuple[QueryTower, Catalog]:
    """The trained query tower over int8 item vectors, as it serves, and the catalog with those vectors."""
    towers = build_two_tower(cfg, prepared.table_sizes)
    towers.load_state_dict(load_run_weights(retrieval))
    tower = QueryTower(towers.query_encoder, towers.attribute_embeddings).eval()
    return tower, prepared.catalog._replace(vectors=torch.load(retrieval / VECTORS_FILE))
