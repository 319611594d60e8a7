"""The stages of a training run, in order. Each has a folder of its own that later runs reuse."""

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from data.prepare import prepare
from training.candidates_stage import gather_candidates
from training.distributed import processes
from training.prepared_data import open_prepared
from training.ranker_stage import train_ranker
from training.retrieval_stage import train_retrieval
from training.stage_folders import update_latest_link
from training.warm_start import load_warm_start, with_training_window


def train_models(cfg: DictConfig) -> Path:
    """Train the models of `cfg.stage` and return the folder of the run."""
    processes.init_processes(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    cfg = with_training_window(cfg)
    prepared = open_prepared(processes.on_rank_zero(lambda: prepare(cfg)))
    warm = load_warm_start(cfg, prepared.folder)
    retrieval = train_retrieval(cfg, prepared, warm)
    if cfg.stage == "retrieval":
        return retrieval
    candidates_folder = processes.on_rank_zero(lambda: gather_candidates(cfg, prepared, retrieval))
    folder = train_ranker(cfg, prepared, retrieval, candidates_folder, warm)
    if processes.rank() == 0:
        update_latest_link(cfg.paths.runs, folder)
        print(f"run: {folder}")
    return folder
