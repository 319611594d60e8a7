"""The weights of an earlier run on today's log: nothing is learned, everything else is as of now.

What an old model is still worth, with today's prices, popularity and neighbours. A challenger has to beat it:
held against the model as it stood on its own day, it would win by the age of the tables alone.
"""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from training.build_models import build_ranker, build_two_tower
from training.pipeline import PreparedData, gather_candidates, relative_path, save_config, training_prices
from training.retrieval import encode_items
from training.stage_folders import (
    is_done,
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
    warm_start_weights,
)


def refresh_run(earlier: Path, cfg: DictConfig, prepared: PreparedData) -> Path:
    """A run folder with the weights of `earlier` over a prepared folder, to be judged on its test split.

    Models are as the earlier run has them; paths are those of `cfg`. Raises ConfigError for a run that is
    gone, or whose features the log has no more.
    """
    own = OmegaConf.load(earlier / "config.yaml")
    assert isinstance(own, DictConfig)
    own.update(paths=cfg.paths, data=cfg.data, warm={"run": str(earlier)})
    warm = load_warm_start(own, prepared.folder)
    assert warm is not None
    retrieval = _refresh_towers(own, prepared, warm)
    gathered = gather_candidates(own, prepared, retrieval, splits=("test",))
    folder = stage_folder(own.paths.runs, "ranker", "refreshed", warm.run_name, gathered.name)
    with lock_folder(folder):
        if is_done(folder):
            return folder
        build = partial(build_ranker, own, prepared.table_sizes)
        torch.save(warm_start_weights(build, warm.ranker_weights, warm.previous_rows), folder / "weights.pt")
        save_config(own, folder)
        notes = {
            "prepared": relative_path(prepared.folder, folder),
            "retrieval": relative_path(retrieval, folder),
            "candidates": relative_path(gathered, folder),
            "recall": read_stage_manifest(gathered)["recall"],
        }
        write_stage_manifest(folder, read_stage_manifest(earlier) | notes)
    return folder


def _refresh_towers(own: DictConfig, prepared: PreparedData, warm: WarmStart) -> Path:
    """The two towers, and the vectors of today's items."""
    folder = stage_folder(own.paths.runs, "retrieval", "refreshed", warm.run_name, prepared.folder.name)
    with lock_folder(folder):
        if is_done(folder):
            return folder
        build = partial(build_two_tower, own, prepared.table_sizes)
        towers = build()
        weights = warm_start_weights(build, warm.tower_weights, warm.previous_rows) | {
            TRAINED_MASK_KEY: trained_item_mask(warm)
        }
        towers.load_state_dict(weights)
        torch.save(weights, folder / "weights.pt")
        vectors = encode_items(towers.eval(), prepared.catalog, prepared.text, training_prices(prepared))
        torch.save(vectors, folder / "vectors.pt")
        save_config(own, folder)
        write_stage_manifest(folder, {"metrics": {}, "prepared": relative_path(prepared.folder, folder)})
    return folder
