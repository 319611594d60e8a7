"""Runs the stages of a training in order. Each stage has a folder that later runs reuse."""

from functools import cache
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from data.prepare import prepare
from training import tracking
from training.build_ranker import feature_selection, read_tasks
from training.callbacks import make_callbacks
from training.candidates_stage import gather_candidates
from training.distributed import processes
from training.labels import check_task_labels, label_policy_from_meta
from training.loggers import check_loggers
from training.mlflow_stages import RunStages, log_stages
from training.module_checks import check_modules
from training.objective import check_run_objective
from training.optimizers import check_optimizers
from training.prepared_data import open_prepared
from training.ranker_stage import train_ranker
from training.report_columns import check_report_columns, column_list
from training.retrieval_stage import train_retrieval
from training.source_settings import parse_sources
from training.stage_folders import link_run
from training.trainer import extra_arguments
from training.warm_start import load_warm_start, with_training_window


def train_models(cfg: DictConfig) -> Path:
    """Train the models of `cfg.stage` and return the folder of the run."""
    processes.init_processes(cfg)
    processes.on_rank_zero(lambda: tracking.check_server(cfg))
    processes.on_rank_zero(lambda: tracking.send_kept(cfg))
    pl.seed_everything(cfg.seed, verbose=False)
    # These checks report a wrong name or value before the first stage.
    extra_arguments(cfg)
    check_loggers(cfg)
    check_optimizers(cfg)
    make_callbacks(cfg, Path(cfg.paths.runs))
    tasks = read_tasks(cfg)
    feature_selection(cfg)
    parse_sources(cfg.retrieval.sources)
    cfg = with_training_window(cfg)
    prepared = open_prepared(processes.on_rank_zero(lambda: prepare(cfg)))
    check_task_labels(tasks, label_policy_from_meta(prepared.meta, tasks))
    check_run_objective(cfg, tasks, prepared)
    check_report_columns(column_list(cfg.evaluation.by), prepared.folder)
    warm = load_warm_start(cfg, prepared.folder)
    check = cache(lambda: check_modules(cfg, prepared.table_sizes))  # runs once, and only if a stage trains
    retrieval = train_retrieval(cfg, prepared, warm, check)
    if cfg.stage == "retrieval":
        return retrieval
    candidates_folder = processes.on_rank_zero(lambda: gather_candidates(cfg, prepared, retrieval))
    folder = train_ranker(cfg, prepared, retrieval, candidates_folder, warm, check)
    if processes.rank() == 0:
        log_stages(cfg, RunStages(prepared.folder, retrieval, candidates_folder, folder))
        link_run(cfg.paths.runs, folder)
        print(f"run: {folder}")
    return folder
