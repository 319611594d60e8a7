"""Opens a finished run, for evaluation and export."""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from models.ranking.ranker import Ranker
from models.ranking.tasks import Task
from models.retrieval.two_tower import QueryTower
from models.schema import Catalog
from serving.files import is_uri
from training.build_ranker import build_ranker, read_tasks
from training.config_versions import load_run_config
from training.prepared_data import PreparedData, open_prepared
from training.remote_runs import fetch_remote_run
from training.retrieval_stage import load_query_tower, towers_of_split
from training.run_files import load_run_weights
from training.stage_folders import read_stage_manifest, run_path


class Run(NamedTuple):
    """The contents of a run folder of `train.py`, and of the folders on which it builds."""

    folder: Path
    cfg: DictConfig
    manifest: dict[str, Any]  # done.json
    prepared: PreparedData
    query_tower: QueryTower
    catalog: Catalog  # with item vectors, all snapshots
    ranker: Ranker  # calibrated, float tables
    tasks: tuple[Task, ...]  # tasks of the ranker, in the order of its outputs
    retrieval_folder: Path  # folder of the two towers
    candidates_folder: Path  # folder with {train,validation,test}.parquet

    def towers_of(self, split: str) -> tuple[QueryTower, Catalog]:
        """The query tower, and the catalog with item vectors, that scored the candidates of a split.

        The towers of the test split also serve. Earlier towers score checkouts from which the run's own
        towers learned.
        """
        towers = towers_of_split(self.retrieval_folder, split)
        if towers == self.retrieval_folder:
            return self.query_tower, self.catalog
        return load_query_tower(self.cfg, self.prepared, towers)


def open_run(folder: str | Path) -> Run:
    """Load a run folder: a path, `latest`, `best`, or a URI such as s3://bucket/runs/latest.

    Raises RemoteError for a store that cannot be read; FileNotFoundError for a run that is missing,
    unfinished, or without ranker or data; DataError for data that an earlier release prepared; RuntimeError
    for weights that do not fit the code.
    """
    folder = (fetch_remote_run(str(folder)) if is_uri(folder) else run_path(folder)).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such run. Train first: python train.py")
    manifest = read_stage_manifest(folder)
    if "retrieval" not in manifest:
        raise FileNotFoundError(
            f"{folder} holds retrieval only: run python train.py (stage=all) for a ranker"
        )
    parts = {part: (folder / manifest[part]).resolve() for part in ("prepared", "retrieval", "candidates")}
    for part_folder in parts.values():
        if not part_folder.is_dir():
            raise FileNotFoundError(
                f"{part_folder}, which {folder.name} needs, is gone: run python train.py again"
            )
    cfg = load_run_config(folder)
    prepared = open_prepared(parts["prepared"])
    tower, catalog = load_query_tower(cfg, prepared, parts["retrieval"])
    ranker = build_ranker(cfg, prepared.table_sizes)
    ranker.load_state_dict(load_run_weights(folder))
    return Run(
        folder=folder,
        cfg=cfg,
        manifest=manifest,
        prepared=prepared,
        query_tower=tower,
        catalog=catalog,
        ranker=ranker.eval(),
        tasks=read_tasks(cfg),
        retrieval_folder=parts["retrieval"],
        candidates_folder=parts["candidates"],
    )
