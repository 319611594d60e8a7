"""The weights of an earlier run on today's log: nothing is learned, everything else is as of now.

What an old model is still worth, with today's prices, popularity and neighbours. A challenger has to beat it:
held against the model as it stood on its own day, it would win by the age of the tables alone.
"""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from training.build_models import build_ranker, build_two_tower
from training.pipeline import Prepared, from_here, gather_candidates, save_config, training_price
from training.retrieval import encode_items
from training.stage_folders import hold, is_done, mark_done, read_done, stage_folder
from training.warm_start import TRAINED, Warm, learned_items, open_warm, starting_weights


def refreshed(earlier: Path, cfg: DictConfig, prepared: Prepared) -> Path:
    """A run folder with the weights of `earlier` over a prepared folder, to be judged on its test split.

    Models are as the earlier run has them; paths are those of `cfg`. Raises ConfigError for a run that is
    gone, or whose features the log has no more.
    """
    own = OmegaConf.load(earlier / "config.yaml")
    assert isinstance(own, DictConfig)
    own.update(paths=cfg.paths, data=cfg.data, warm={"run": str(earlier)})
    warm = open_warm(own, prepared.folder)
    assert warm is not None
    retrieval = _towers(own, prepared, warm)
    gathered = gather_candidates(own, prepared, retrieval, splits=("test",))
    folder = stage_folder(own.paths.runs, "ranker", "refreshed", warm.name, gathered.name)
    with hold(folder):
        if is_done(folder):
            return folder
        build = partial(build_ranker, own, prepared.sizes)
        torch.save(starting_weights(build, warm.ranker, warm.rows), folder / "weights.pt")
        save_config(own, folder)
        notes = {
            "prepared": from_here(prepared.folder, folder),
            "retrieval": from_here(retrieval, folder),
            "candidates": from_here(gathered, folder),
            "recall": read_done(gathered)["recall"],
        }
        mark_done(folder, read_done(earlier) | notes)
    return folder


def _towers(own: DictConfig, prepared: Prepared, warm: Warm) -> Path:
    """The two towers, and the vectors of today's items."""
    folder = stage_folder(own.paths.runs, "retrieval", "refreshed", warm.name, prepared.folder.name)
    with hold(folder):
        if is_done(folder):
            return folder
        build = partial(build_two_tower, own, prepared.sizes)
        towers = build()
        weights = starting_weights(build, warm.towers, warm.rows) | {TRAINED: learned_items(warm)}
        towers.load_state_dict(weights)
        torch.save(weights, folder / "weights.pt")
        vectors = encode_items(towers.eval(), prepared.catalog, prepared.text, training_price(prepared))
        torch.save(vectors, folder / "vectors.pt")
        save_config(own, folder)
        mark_done(folder, {"metrics": {}, "prepared": from_here(prepared.folder, folder)})
    return folder
