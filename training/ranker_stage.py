"""The ranker stage: a calibrated ranker, trained on candidates."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from data.io.batches import read_batches
from models.ranking.ranker import Ranker
from models.ranking.tasks import Task
from training import tracking
from training.build_ranker import build_ranker, feature_selection, read_tasks
from training.checkout_sampling import latest_rows_start
from training.distributed import processes
from training.distributed.sharding import build_and_load
from training.labels import LabelPolicy, Labels, label_policy_from_meta, task_labels, task_weights
from training.prepared_data import PreparedData
from training.ranker import LOSS, QuerySource, RankerRun, RankerTask, predict
from training.recalibration import recalibrate_at
from training.retrieval_stage import load_query_tower, towers_of_split
from training.run_files import CONFIG_FILE, WEIGHTS_FILE, relative_path, save_objective, save_run_config
from training.stage_folders import fetch_stage, read_stage_manifest, stage_folder, write_stage_manifest
from training.task_settings import TaskSettings
from training.trainer import BEST_CHECKPOINT, StoppingRule, count_epoch_steps, fit
from training.validation_slates import ValidationSlates
from training.warm_start import WarmStart, ranker_outline, warm_ranker_weights

VALIDATION_BATCH_SIZE = 256  # checkouts


def train_ranker(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    candidates_folder: Path,
    warm: WarmStart | None = None,
    before_training: Callable[[], None] = lambda: None,
) -> Path:
    """Train and calibrate the ranker. Return its folder, which holds its weights and the resolved config.

    `before_training` is called unless the ranker is already trained.
    """
    folder = stage_folder(
        cfg.paths.runs,
        "ranker",
        __name__,
        cfg.ranker,
        cfg.tasks,
        feature_selection(cfg),
        cfg.trainer.precision,
        cfg.trainer.extra,
        cfg.callbacks,
        cfg.seed,
        candidates_folder.name,
    )
    with processes.lock_on_rank_zero(folder):
        if not processes.on_rank_zero(lambda: fetch_stage(folder)):
            before_training()
            _train_ranker(cfg, prepared, retrieval, candidates_folder, warm, folder)
        else:
            processes.on_rank_zero(lambda: save_objective(cfg, folder))
    return folder


def _train_ranker(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    candidates_folder: Path,
    warm: WarmStart | None,
    folder: Path,
) -> None:
    train_settings = cfg.ranker.train
    tags = {"stage": cfg.stage, "data": prepared.folder.name}
    run_id = processes.on_rank_zero(lambda: tracking.start_run(cfg, folder, tags))
    build = partial(build_ranker, cfg, prepared.table_sizes)
    weights = warm_ranker_weights(build, warm) if warm else None
    label_policy = label_policy_from_meta(prepared.meta, read_tasks(cfg))
    stream = processes.stream_share()
    train = read_batches(
        candidates_folder / "train.parquet", train_settings.batch_size, seed=cfg.seed, shuffle=True, **stream
    )
    validation_file = candidates_folder / "validation.parquet"
    first_row = latest_rows_start(validation_file, train_settings.validation_checkouts)
    validation = read_batches(validation_file, VALIDATION_BATCH_SIZE, start=first_row, **stream)
    stopping = _stopping_rule(train_settings)
    epoch_steps = count_epoch_steps(cfg, len(train))
    settings = TaskSettings.of(cfg, "ranker", stopping.count_steps(epoch_steps), weights)
    task = RankerTask(
        build, _query_sources(cfg, prepared, retrieval), prepared.catalog, read_tasks(cfg), label_policy,
        settings, RankerRun(folder, ValidationSlates.of(cfg, read_tasks(cfg), prepared)),
    )  # fmt: skip
    start = time.monotonic()
    loggers = tracking.stage_loggers(cfg, folder, "ranker")
    with tracking.system_metrics(cfg, folder):
        metrics = fit(cfg, task, train, validation, folder, loggers, stopping)
    seconds = time.monotonic() - start  # time of this process, not of the whole training if it was resumed
    ranker = build_and_load(build, folder / BEST_CHECKPOINT)  # every process takes part
    if processes.rank() > 0:
        return
    outputs = _kept_validation_outputs(cfg, task, metrics)
    # Loaded again, because the trainer may have moved the first ones to a device.
    tower, catalog = load_query_tower(cfg, prepared, towers_of_split(retrieval, "validation"))
    if outputs is None:
        batches = read_batches(validation_file, VALIDATION_BATCH_SIZE, start=first_row)
        outputs = predict(ranker, tower, catalog, batches, label_policy)
    _calibrate(ranker, read_tasks(cfg), outputs, label_policy)
    recalibration = recalibrate_at(
        "test_start", ranker.eval(), tower, catalog, candidates_folder, read_tasks(cfg), prepared.meta
    )
    torch.save(ranker.state_dict(), folder / WEIGHTS_FILE)
    save_run_config(cfg, folder)
    manifest = {
        "metrics": metrics,
        "training_seconds": seconds,
        "mlflow_run_id": run_id,
        "outline": ranker_outline(ranker),
        "recalibration": recalibration,
        **run_references(folder, prepared, retrieval, candidates_folder),
    }
    write_stage_manifest(folder, manifest)
    retrieval_metrics = tracking.prefix_metrics(read_stage_manifest(retrieval)["metrics"], "retrieval")
    tracking.add_entries(cfg, folder, [tracking.dataset_entry(cfg, prepared.folder.name)])
    tracking.finish_run(cfg, folder, retrieval_metrics, [folder / CONFIG_FILE])


def _stopping_rule(train_settings: DictConfig) -> StoppingRule:
    monitor = str(train_settings.monitor)
    return StoppingRule.of(train_settings, monitor, "min" if monitor == LOSS else "max")


def _query_sources(
    cfg: DictConfig, prepared: PreparedData, retrieval: Path
) -> tuple[QuerySource, QuerySource]:
    """The query sources of training and of validation. Their towers learned from none of these checkouts."""
    training, validation = (
        load_query_tower(cfg, prepared, towers_of_split(retrieval, split))
        for split in ("train", "validation")
    )
    return QuerySource(training[0], training[1].vectors), QuerySource(validation[0], validation[1].vectors)


def _kept_validation_outputs(
    cfg: DictConfig, task: RankerTask, metrics: dict[str, float]
) -> tuple[Tensor, Labels] | None:
    """Logits and labels of the last validation. None if its weights are not the weights that are kept."""
    monitor = str(cfg.ranker.train.monitor)
    is_last_best = metrics[monitor] == metrics[f"best_{monitor}"]
    return task.validation_outputs if is_last_best and cfg.trainer.precision == "32-true" else None


def _calibrate(
    ranker: Ranker, tasks: Sequence[Task], outputs: tuple[Tensor, Labels], label_policy: LabelPolicy
) -> None:
    """Fit the ranker's calibration to logits and labels of validation."""
    logits, labels = outputs
    bias = ranker.position_bias if label_policy.has_impressions else None
    matrix = task_labels(labels, tasks, label_policy)
    ranker.calibration.fit(tasks, logits, matrix, labels.position, bias, task_weights(labels, tasks))


def run_references(
    folder: Path, prepared: PreparedData, retrieval: Path, candidates_folder: Path
) -> dict[str, Any]:
    """The manifest entries of a run folder that name the folders on which it builds."""
    return {
        "prepared": relative_path(prepared.folder, folder),
        "retrieval": relative_path(retrieval, folder),
        "candidates": relative_path(candidates_folder, folder),
        "recall": read_stage_manifest(candidates_folder)["recall"],
    }
