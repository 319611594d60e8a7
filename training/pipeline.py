"""The stages of a training run, in order. Each has a folder of its own that later runs reuse."""

from functools import cache
from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from data.prepare import prepare
from training.build_ranker import feature_selection
from training.candidates_stage import gather_candidates
from training.distributed import processes
from training.module_checks import check_modules
from training.prepared_data import open_prepared
from training.ranker_stage import train_ranker
from training.retrieval_stage import train_retrieval
from training.source_settings import parse_sources
from training.stage_folders import update_latest_link
from training.warm_start import load_warm_start, with_training_window


def train_models(cfg: DictConfig) -> Path:
    """Train the models of `cfg.stage` and return the folder of the run."""
    processes.init_processes(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    feature_selection(cfg)  # refuses a wrong name before the first stage
    parse_sources(cfg.retrieval.sources)  # the same
    cfg = with_training_window(cfg)
    prepared = open_prepared(processes.on_rank_zero(lambda: prepare(cfg)))
    warm = load_warm_start(cfg, prepared.folder)
    check = cache(lambda: check_modules(cfg, prepared.table_sizes))  # once, and only if a stage trains
    retrieval = train_retrieval(cfg, prepared, warm, check)
    if cfg.stage == "retrieval":
        return retrieval
    candidates_folder = processes.on_rank_zero(lambda: gather_candidates(cfg, prepared, retrieval))
    folder = train_ranker(cfg, prepared, retrieval, candidates_folder, warm, check)
    if processes.rank() == 0:
        update_latest_link(cfg.paths.runs, folder)
        print(f"run: {folder}")
    return folder
