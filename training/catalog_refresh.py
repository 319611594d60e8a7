"""Refreshes an earlier run with today's log: new prices, popularity and neighbours, no training.

A challenger is compared with the refreshed run. With its old tables the earlier run would lose by their age
alone.
"""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from training.build_ranker import build_ranker
from training.build_two_tower import build_two_tower
from training.candidates_stage import gather_candidates
from training.config_versions import load_run_config
from training.prepared_data import PreparedData
from training.ranker_stage import run_references
from training.retrieval_stage import save_towers
from training.run_files import WEIGHTS_FILE, relative_path, save_run_config
from training.stage_folders import (
    fetch_stage,
    lock_folder,
    read_stage_manifest,
    stage_folder,
    write_stage_manifest,
)
from training.warm_start import (
    TRAINED_MASK_KEY,
    WarmStart,
    load_warm_start,
    trained_item_mask,
    warm_ranker_weights,
    warm_start_weights,
)


def refresh_run(earlier: Path, cfg: DictConfig, prepared: PreparedData) -> Path:
    """Make a run folder with the weights of `earlier` and a prepared folder, to evaluate on its test split.

    Models are as in the earlier run. Paths are those of `cfg`. Raises ConfigError for a missing run, or a run
    with features that the log no longer has.
    """
    run_cfg = load_run_config(earlier)
    run_cfg.update(paths=cfg.paths, data=cfg.data, warm={"run": str(earlier)})
    warm = load_warm_start(run_cfg, prepared.folder)
    assert warm is not None
    retrieval = _refresh_towers(run_cfg, prepared, warm)
    candidates_folder = gather_candidates(run_cfg, prepared, retrieval, splits=("test",))
    folder = stage_folder(
        run_cfg.paths.runs, "ranker", __name__, "refreshed", warm.run_name, candidates_folder.name
    )
    with lock_folder(folder):
        if fetch_stage(folder):
            return folder
        build = partial(build_ranker, run_cfg, prepared.table_sizes)
        weights = warm_ranker_weights(build, warm)
        torch.save(weights, folder / WEIGHTS_FILE)
        save_run_config(run_cfg, folder)
        references = run_references(folder, prepared, retrieval, candidates_folder)
        write_stage_manifest(folder, read_stage_manifest(earlier) | references)
    return folder


def _refresh_towers(run_cfg: DictConfig, prepared: PreparedData, warm: WarmStart) -> Path:
    """Make a folder with the earlier run's towers and with the vectors of today's items."""
    folder = stage_folder(
        run_cfg.paths.runs, "retrieval", __name__, "refreshed", warm.run_name, prepared.folder.name
    )
    with lock_folder(folder):
        if fetch_stage(folder):
            return folder
        build = partial(build_two_tower, run_cfg, prepared.table_sizes)
        towers = build()
        weights = warm_start_weights(build, warm.tower_weights, warm.previous_rows)
        towers.load_state_dict(weights | {TRAINED_MASK_KEY: trained_item_mask(warm)})
        save_towers(towers.eval(), prepared, folder)
        save_run_config(run_cfg, folder)
        home = relative_path(prepared.folder, folder)
        write_stage_manifest(folder, {"metrics": {}, "prepared": home})
    return folder
