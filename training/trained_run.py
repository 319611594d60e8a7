"""A finished run, opened: what evaluation and export start from."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf

from models.ranking.ranker import Ranker
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog
from training.build_models import build_ranker
from training.pipeline import PreparedData, load_query_tower, open_prepared
from training.stage_folders import read_stage_manifest


class Run(NamedTuple):
    """What `train.py` left in a folder."""

    folder: Path
    cfg: DictConfig
    manifest: dict[str, Any]  # done.json
    prepared: PreparedData
    query_tower: QueryTower
    catalog: Catalog  # with item vectors, all snapshots
    ranker: Ranker  # calibrated, float tables
    retrieval_folder: Path  # folder of the two towers
    candidates_folder: Path  # folder with {train,validation,test}.parquet


def open_run(folder: str | Path) -> Run:
    """Load a run folder.

    Raises FileNotFoundError for a run that is missing, unfinished, or without ranker or data; RuntimeError
    for weights that do not fit the code.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run. Train first: python train.py")
    notes = read_stage_manifest(folder)
    if "retrieval" not in notes:
        raise FileNotFoundError(
            f"{folder} holds retrieval only: run python train.py (stage=all) for a ranker"
        )
    parts = {part: (folder / notes[part]).resolve() for part in ("prepared", "retrieval", "candidates")}
    for part in parts.values():
        if not part.is_dir():
            raise FileNotFoundError(f"{part}, which {folder.name} needs, is gone: run python train.py again")
    cfg = OmegaConf.load(folder / "config.yaml")
    assert isinstance(cfg, DictConfig)
    prepared = open_prepared(parts["prepared"])
    tower, catalog = load_query_tower(cfg, prepared, parts["retrieval"])
    ranker = build_ranker(cfg, prepared.table_sizes)
    ranker.load_state_dict(torch.load(folder / "weights.pt"))
    return Run(
        folder=folder,
        cfg=cfg,
        manifest=notes,
        prepared=prepared,
        query_tower=tower,
        catalog=catalog,
        ranker=ranker.eval(),
        retrieval_folder=parts["retrieval"],
        candidates_folder=parts["candidates"],
    )
