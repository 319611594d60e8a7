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
from training.build_two_tower import build_two_tower, count_sales
from training.checkout_sampling import count_further_epochs, count_retrieval_rows, latest_rows_start
from training.config_limits import NO_LIMIT
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
from training.retrieval_batches import TrainingRows, refit_rows, target_rule, training_batches
from training.run_files import (
    CONFIG_FILE,
    VECTORS_FILE,
    WEIGHTS_FILE,
    load_run_weights,
    relative_path,
    save_run_config,
)
from training.stage_folders import fetch_stage, read_stage_manifest, stage_folder, write_stage_manifest
from training.task_settings import TaskSettings
from training.trainer import BEST_CHECKPOINT, StoppingRule, count_epoch_steps, fit
from training.warm_start import WarmStart, trained_item_mask, warm_start_weights

VALIDATION_BATCH_SIZE = 512  # checkouts
# Split → its towers: those of the last training (0), of the one before (1), …
TOWER_SPLITS = {"train": 2, "validation": 1, "censored_at_test": 1, "test": 0, "censored_at_end": 0}
CONTINUED = "continued"  # manifest key: the folder of the towers that these towers continue
MONITOR = "recall"  # the metric of validation that selects the weights


def train_retrieval(
    cfg: DictConfig,
    prepared: PreparedData,
    warm: WarmStart | None = None,
    before_training: Callable[[], None] = lambda: None,
) -> Path:
    """Train the two towers and return their folder, with their weights and the int8 item vectors.

    The towers learn from the earliest `retrieval.train.share` of the training checkouts until validation
    stops them. So the towers' scores of later checkouts are out of sample, and the ranker can train on these
    scores. The same towers then continue on all training checkouts, to score validation, and on all checkouts
    whose outcomes were known before the test split, to score test and requests (`towers_of_split`).
    `before_training` is called unless the towers are already trained.
    """
    selected = stage_folder(
        cfg.paths.runs,
        "retrieval",
        __name__,
        cfg.retrieval.model,
        cfg.retrieval.train,
        cfg.trainer.precision,
        cfg.trainer.extra,
        cfg.callbacks,
        cfg.seed,
        prepared.folder.name,
        *([warm.run_name] if warm else []),
    )
    with processes.lock_on_rank_zero(selected):
        if not processes.on_rank_zero(lambda: fetch_stage(selected)):
            before_training()
            _select_towers(cfg, prepared, warm, selected)
    towers = _continue_once(cfg, prepared, warm, selected, "towers")
    return _continue_once(cfg, prepared, warm, towers, "refit")


def towers_of_split(retrieval: Path, split: str) -> Path:
    """The folder of the newest towers that learned from no checkout of a split.

    It is `retrieval`, or a folder of towers that `retrieval` continues.
    """
    chain = towers_chain(retrieval)
    return chain[min(TOWER_SPLITS.get(split, 0), len(chain) - 1)]


def towers_chain(retrieval: Path) -> list[Path]:
    """The folders of the towers `retrieval` and of all towers that they continue, back to the first."""
    chain = [retrieval]
    while (manifest := read_stage_manifest(chain[-1])).get(CONTINUED):
        chain.append((chain[-1] / manifest[CONTINUED]).resolve())
    return chain


def _select_towers(cfg: DictConfig, prepared: PreparedData, warm: WarmStart | None, folder: Path) -> None:
    """Train on the earliest share of the training checkouts until validation stops improving."""
    train_settings = cfg.retrieval.train
    tags = {"stage": "retrieval", "data": prepared.folder.name}
    run_id = processes.on_rank_zero(lambda: tracking.start_run(cfg, folder, tags))
    n_rows = count_retrieval_rows(_count_train_rows(prepared), train_settings.share)
    stopping = StoppingRule.of(train_settings, MONITOR, "max")
    rows = TrainingRows(prepared.folder / "examples" / "train.parquet", n_rows)
    metrics = _fit_towers(cfg, prepared, warm, folder, rows, stopping)
    if processes.rank() > 0:
        return
    home = relative_path(prepared.folder, folder)
    manifest = {"metrics": metrics, "prepared": home, "mlflow_run_id": run_id, "rows": n_rows}
    manifest["best_epochs"] = metrics["best_epochs"]
    write_stage_manifest(folder, manifest)
    tracking.add_entries(cfg, folder, [tracking.dataset_entry(cfg, prepared.folder.name)])
    tracking.finish_run(cfg, folder, {}, [folder / CONFIG_FILE])


def _continue_once(
    cfg: DictConfig, prepared: PreparedData, warm: WarmStart | None, previous: Path, name: str
) -> Path:
    """The folder `<name>-…` of the towers that continue the towers of `previous`."""
    folder = stage_folder(cfg.paths.runs, name, __name__, previous.name)
    with processes.lock_on_rank_zero(folder):
        if not processes.on_rank_zero(lambda: fetch_stage(folder)):
            _continue_towers(cfg, prepared, warm, previous, folder)
    return folder


def _continue_towers(
    cfg: DictConfig, prepared: PreparedData, warm: WarmStart | None, previous: Path, folder: Path
) -> None:
    """Continue the training on more checkouts. More new checkouts mean more passes.

    The first continuation reads all training checkouts. The second reads all checkouts whose outcomes were
    known before the test split.
    """
    manifest = processes.on_rank_zero(lambda: read_stage_manifest(previous))
    examples = prepared.folder / "examples"
    if CONTINUED in manifest:
        rows = processes.on_rank_zero(lambda: refit_rows(examples, folder))
    else:
        rows = TrainingRows(examples / "train.parquet", _count_train_rows(prepared))
    n_epochs = count_further_epochs(manifest["best_epochs"], manifest["rows"], rows.stop)
    stopping = StoppingRule(
        monitor=MONITOR,
        mode="max",
        max_epochs=n_epochs,
        validate_every=NO_LIMIT,
        patience=1,
        continued=previous / BEST_CHECKPOINT,
    )
    metrics = _fit_towers(cfg, prepared, warm, folder, rows, stopping)
    if processes.rank() == 0:
        references = {"prepared": prepared.folder, CONTINUED: previous}
        shared = {name: manifest[name] for name in ("mlflow_run_id", "best_epochs")}
        paths = {name: relative_path(path, folder) for name, path in references.items()}
        write_stage_manifest(folder, {"metrics": metrics, "rows": rows.stop, **shared, **paths})


def _fit_towers(
    cfg: DictConfig,
    prepared: PreparedData,
    warm: WarmStart | None,
    folder: Path,
    rows: TrainingRows,
    stopping: StoppingRule,
) -> dict[str, float]:
    """Train on some checkouts. Write weights, vectors and config.

    Returns metrics. Metrics of continued towers are not logged.
    """
    train_settings = cfg.retrieval.train
    examples = prepared.folder / "examples"
    build = partial(build_two_tower, cfg, prepared.table_sizes)
    weights = warm_start_weights(build, warm.tower_weights, warm.previous_rows) if warm else None
    items = _training_items(cfg, prepared, rows, warm)
    targets = target_rule(prepared.meta, train_settings)
    stream = {"max_history": cfg.retrieval.model.query.get("max_events"), **processes.stream_share()}
    train = training_batches(cfg, rows, folder, stream)
    max_steps = stopping.count_steps(count_epoch_steps(cfg, len(train)))
    settings = TaskSettings.of(cfg, "retrieval", max_steps, weights)
    task = RetrievalTask(build, items, settings, targets)
    validation_file = examples / "validation.parquet"
    first_row = latest_rows_start(validation_file, train_settings.validation_checkouts)
    validation = read_batches(validation_file, VALIDATION_BATCH_SIZE, start=first_row, **stream)
    loggers = [] if stopping.continued else tracking.stage_loggers(cfg, folder, "retrieval")
    with tracking.system_metrics(cfg, folder):
        metrics = fit(cfg, task, train, validation, folder, loggers, stopping)
    towers = build_and_load(build, folder / BEST_CHECKPOINT)  # every process takes part
    if processes.rank() == 0:
        save_towers(towers, prepared, folder)
        save_run_config(cfg, folder)
    return metrics


def _count_train_rows(prepared: PreparedData) -> int:
    return count_rows(prepared.folder / "examples" / "train.parquet")


def _training_items(
    cfg: DictConfig, prepared: PreparedData, rows: TrainingRows, warm: WarmStart | None
) -> TrainingItems:
    """The catalog as the item tower sees it, for a training on some checkouts.

    Raises ConfigError for a wrong `retrieval.train.negative_items`.
    """
    probability = positive_probability(*rows, prepared.table_sizes["items"], cfg.retrieval.train.positives)
    trained_mask = probability > 0
    if warm is not None:
        trained_mask = trained_mask | trained_item_mask(warm)
    has_facts = count_sales(cfg) > 0 or prepared.catalog.content.shape[1] > 0
    return TrainingItems(
        catalog=prepared.catalog,
        text=prepared.text,
        price=training_prices(prepared),
        snapshot_dates=torch.tensor(prepared.meta["snapshot_dates"]),
        probability=probability,
        trained_mask=trained_mask,
        negatives=negative_items(cfg.retrieval.train.negative_items, trained_mask, has_facts),
    )


def save_towers(towers: TwoTower, prepared: PreparedData, folder: Path) -> None:
    """Write the weights of the two towers and the int8 vectors of all items."""
    torch.save(towers.state_dict(), folder / WEIGHTS_FILE)
    vectors = encode_items(towers, prepared.catalog, prepared.text, training_prices(prepared))
    torch.save(vectors, folder / VECTORS_FILE)


def load_query_tower(cfg: DictConfig, prepared: PreparedData, retrieval: Path) -> tuple[QueryTower, Catalog]:
    """The trained query tower in its serving form, and the catalog with int8 item vectors."""
    towers = build_two_tower(cfg, prepared.table_sizes)
    towers.load_state_dict(load_run_weights(retrieval))
    tower = QueryTower(towers.query_encoder, towers.attribute_embeddings, count_sales(cfg)).eval()
    return tower, prepared.catalog._replace(vectors=torch.load(retrieval / VECTORS_FILE))
