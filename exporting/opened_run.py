"""A finished training run, opened for export."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from data.errors import DataError
from data.feature_schema import FeatureSchema
from data.io.batches import to_batch
from models.candidates.sources import CandidateSources
from models.ranking.ranker import Ranker
from models.retrieval.item_tower import ItemEncoder
from models.retrieval.two_tower import QueryTower
from models.schema import SNAPSHOT_FIELDS, Catalog, Query
from training.build_models import build_two_tower
from training.candidates import build_candidate_sources, load_neighbour_tables
from training.pipeline import PreparedData
from training.stage_folders import read_stage_manifest
from training.tracking import find_run_folder
from training.trained_run import Run, open_run


class ExportError(RuntimeError):
    """Nothing was published. The message says why and what to do."""


class TrainedRun(NamedTuple):
    """What a run left, and the data that it was trained on."""

    folder: Path
    retrieval_folder: Path  # folder of the two towers
    cfg: DictConfig  # of the run
    run_manifest: dict[str, Any]  # done.json of the run
    retrieval_manifest: dict[str, Any]
    prepared: PreparedData
    schema: FeatureSchema
    items: pa.Table  # items.parquet, a row per item row
    catalog: Catalog  # with item vectors, the latest snapshot alone, as a bundle holds it
    tower: QueryTower  # float tables
    ranker: Ranker  # float tables
    sources: CandidateSources  # tables of the latest snapshot


def find_run(run: str, tracking_uri: str) -> Path:
    """The folder of a run, given as a folder or an MLflow run id. Raises ExportError if there is none."""
    if Path(run).is_dir():
        return Path(run).resolve()
    if "/" in run or Path(run).is_symlink():
        raise ExportError(f"run={run}: no such folder. Train first: python train.py")
    try:
        folder = find_run_folder(tracking_uri, run)
    except (ValueError, KeyError) as error:
        raise ExportError(f"run={run}: {error}. Give a run folder or the id of an MLflow run") from error
    if not folder.is_dir():
        raise ExportError(f"run={run}: its folder {folder} is gone. Train again: python train.py")
    return folder.resolve()


def load_trained_run(folder: Path) -> TrainedRun:
    """Load what `train.py` left in `folder`. Raises ExportError for a run that cannot be exported."""
    try:
        run = open_run(folder)
    except (FileNotFoundError, DataError) as error:
        raise ExportError(str(error)) from error
    except (RuntimeError, KeyError) as error:
        raise ExportError(
            f"{folder}: the weights do not fit this code ({error}). Train again, or check out its commit"
        ) from error
    return TrainedRun(
        folder=run.folder,
        retrieval_folder=run.retrieval_folder,
        cfg=run.cfg,
        run_manifest=run.manifest,
        retrieval_manifest=read_stage_manifest(run.retrieval_folder),
        prepared=run.prepared,
        schema=FeatureSchema.load(run.prepared.folder),
        items=pq.read_table(run.prepared.folder / "items.parquet"),
        catalog=latest_snapshot(run.catalog),
        tower=run.query_tower,
        ranker=run.ranker,
        sources=latest_sources(run),
    )


def load_item_tower(trained: TrainedRun) -> ItemEncoder:
    """The item tower of a run, float tables."""
    towers = build_two_tower(trained.cfg, trained.prepared.table_sizes)
    towers.load_state_dict(torch.load(trained.retrieval_folder / "weights.pt"))
    return towers.item_encoder.eval()


def latest_sources(run: Run) -> CandidateSources:
    """The candidate tables of the latest snapshot."""
    dates = run.prepared.meta["snapshot_dates"]
    tables = load_neighbour_tables(run.prepared.folder, run.prepared.table_sizes["items"])
    return build_candidate_sources(run.cfg, run.catalog, tables, len(dates) - 1, dates[-1])


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """How well the heads were calibrated on the test split, over all candidates and by slice.

    From the run's evaluation, and from the test because the calibration was fitted on validation. None for a
    run that was not evaluated.
    """
    report = folder / "evaluation-test" / "report.json"
    if not report.is_file():
        return None
    found = json.loads(report.read_text())
    return {"split": found["split"], "checkouts": found["checkouts"], "slices": found["calibration"]}


def latest_snapshot(catalog: Catalog) -> Catalog:
    """The catalog with its last snapshot only."""
    return catalog._replace(**{name: getattr(catalog, name)[-1:] for name in SNAPSHOT_FIELDS})


def sample_checkouts(trained: TrainedRun, splits: tuple[str, ...], count: int) -> pa.Table:
    """Up to `count` checkouts with a basket, evenly over the first split, then the next ones if it is short.

    Raises ExportError if there are none.
    """
    parts: list[pa.Table] = []
    left = count
    for split in splits:
        path = trained.prepared.folder / "examples" / f"{split}.parquet"
        if not path.is_file() or left == 0:
            continue
        table = pq.read_table(path)
        usable = table.filter(pc.greater(pc.list_value_length(table["basket_item"]), 0))
        rows = np.unique(np.linspace(0, len(usable) - 1, min(left, len(usable))).astype(np.int64))
        parts.append(usable.take(pa.array(rows)))
        left -= len(rows)
    if not parts or not sum(map(len, parts)):
        raise ExportError(f"{trained.prepared.folder}: no {' or '.join(splits)} checkouts to measure with")
    return pa.concat_tables(parts)


def to_latest_queries(examples: pa.Table) -> Query:
    """Examples as a query that reads the latest snapshot instead of the one of its time."""
    query = to_batch(examples).query
    return query._replace(snapshot=torch.zeros_like(query.snapshot))


def item_margins(trained: TrainedRun) -> NDArray:
    """Share of the price that the shop keeps, by item row [N+1] float32; NaN where unknown."""
    return trained.items["margin"].cast(pa.float32()).to_numpy()


def item_ids(trained: TrainedRun) -> list[str]:
    """Item ids by row; for row 0 an id that no item has."""
    return ["(unknown)", *trained.items["item_id"].to_pylist()[1:]]
