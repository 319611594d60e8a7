"""The stages of a training run, in order. Each has a folder of its own that later runs reuse."""

from pathlib import Path

import pytorch_lightning as pl
from omegaconf import DictConfig

from data.examples.splits import SPLITS
from data.io.parquet import count_rows, iter_slices
from data.prepare import prepare
from training import candidates
from training.checkout_sampling import count_retrieval_rows, first_ranker_row
from training.distributed import processes
from training.prepared_data import PreparedData, open_prepared
from training.ranker_stage import train_ranker
from training.retrieval_stage import load_query_tower, train_retrieval
from training.stage_folders import (
    is_done,
    lock_folder,
    stage_folder,
    update_latest_link,
    write_stage_manifest,
)
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


def gather_candidates(
    cfg: DictConfig,
    prepared: PreparedData,
    retrieval: Path,
    splits: tuple[str, ...] = SPLITS,
) -> Path:
    """Write the candidates of the ranker's training checkouts, validation and test; return their folder."""
    folder = stage_folder(
        cfg.paths.runs,
        "candidates",
        cfg.retrieval.sources,
        cfg.retrieval.train.share,
        cfg.ranker.train.max_checkouts,
        retrieval.name,
        splits,
    )
    with lock_folder(folder):
        if is_done(folder):
            return folder
        tower, catalog = load_query_tower(cfg, prepared, retrieval)
        trained = candidates.TrainedRetrieval(
            cfg=cfg,
            tower=tower,
            catalog=catalog,
            neighbours=candidates.load_neighbour_tables(prepared.folder, prepared.table_sizes["items"]),
            snapshot_dates=prepared.meta["snapshot_dates"],
        )
        recall = {}
        for split in splits:
            examples = prepared.folder / "examples" / f"{split}.parquet"
            stop, start = count_rows(examples), 0
            if split == "train":
                n_retrieval_rows = count_retrieval_rows(stop, cfg.retrieval.train.share)
                start = first_ranker_row(examples, n_retrieval_rows, prepared.meta["horizon"])
                start = max(start, stop - cfg.ranker.train.max_checkouts)
            chunks = iter_slices(examples, None, start, stop, candidates.CHECKOUTS_PER_CHUNK)
            recall[split] = candidates.write_candidates(
                trained, chunks, stop - start, folder / f"{split}.parquet"
            )
        write_stage_manifest(folder, {"recall": recall})
    return folder
