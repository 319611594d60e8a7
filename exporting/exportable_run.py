"""A finished training run, loaded for export."""

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
from data.product_codes import product_codes
from models.candidates.sources import CandidateSources
from models.ranking.ranker import Ranker
from models.ranking.tasks import Task
from models.retrieval.item_sales import catalog_at_snapshot
from models.retrieval.item_tower import ItemEncoder
from models.retrieval.two_tower import QueryTower
from models.schema import SNAPSHOT_FIELDS, Catalog, Query
from serving.files import is_uri
from serving.pipeline.selection import SlateItems
from training.build_two_tower import build_two_tower
from training.candidate_sources import open_source_tables
from training.errors import ConfigError
from training.mlflow_stages import REGISTERED_SCHEME, find_run_folder
from training.prepared_data import PreparedData
from training.recalibration import recalibrate_at
from training.remote_runs import fetch_remote_run
from training.run_files import load_run_weights
from training.stage_folders import BEST_LINK, DEFAULT_RUNS, LATEST_LINK, read_stage_manifest, run_path
from training.tracking import server_problem
from training.trained_run import Run, open_run


class ExportError(RuntimeError):
    """An export or update failed and published nothing. The message gives the reason and the remedy."""


class ExportableRun(NamedTuple):
    """A finished run with its training data, at the latest snapshot."""

    folder: Path
    retrieval_folder: Path  # of the two towers
    cfg: DictConfig  # of the run
    run_manifest: dict[str, Any]  # done.json of the run
    retrieval_manifest: dict[str, Any]  # done.json of the two towers
    prepared: PreparedData
    schema: FeatureSchema
    items: pa.Table  # items.parquet, a row per item row
    catalog: Catalog  # with item vectors; the latest snapshot alone, as a bundle holds it
    tower: QueryTower  # float tables
    ranker: Ranker  # float tables
    sources: CandidateSources  # tables of the latest snapshot
    tasks: tuple[Task, ...]  # of the ranker, in the order of its outputs
    recalibration: dict[str, Any] | None  # at the end of the log (training/recalibration.py)


def find_run(run: str, tracking_uri: str) -> Path:
    """The folder of the run that `run` names.

    `run` is a folder, `latest`, `best`, a URI, an MLflow run id or a registered model. Raises ExportError if
    no run has this name.
    """
    if not run:
        raise ExportError(
            "run= is empty: give a run folder, the id of an MLflow run, or models:/<name>@<alias>"
        )
    if is_uri(run):
        try:
            return fetch_remote_run(run).resolve()
        except OSError as error:
            raise ExportError(f"run={run}: {error}") from error
    if run_path(run).is_dir():
        return run_path(run).resolve()
    if run in (BEST_LINK, LATEST_LINK):
        raise ExportError(
            f"run={run}: there is no {DEFAULT_RUNS / run} below {Path.cwd()}. Give the run's folder: "
            f"run=<paths.runs>/{run}"
        )
    if not tracking_uri:
        raise ExportError("mlflow.tracking_uri= is empty: give the address of the MLflow server")
    is_registered = run.startswith(REGISTERED_SCHEME)
    if not is_registered and ("/" in run or Path(run).is_symlink()):
        raise ExportError(f"run={run}: no such folder. Train first: python train.py")
    if problem := server_problem(tracking_uri):
        raise ExportError(
            f"mlflow.tracking_uri={tracking_uri} does not answer ({problem}). Start the server, or correct "
            "the address"
        )
    try:
        folder = find_run_folder(tracking_uri, run)
    except (ValueError, KeyError) as error:
        raise ExportError(
            f"run={run}: {str(error).rstrip('.')}. Give a run folder, the id of an MLflow run, or "
            "models:/<name>@<alias>"
        ) from error
    return folder.resolve()


def load_exportable_run(folder: Path) -> ExportableRun:
    """Load the run that `train.py` wrote to `folder`, recalibrated on the newest outcomes of the log.

    Raises ExportError for a run that cannot be exported.
    """
    try:
        run = open_run(folder)
    except (FileNotFoundError, DataError, ConfigError) as error:
        raise ExportError(str(error)) from error
    except (RuntimeError, KeyError) as error:
        raise ExportError(
            f"{folder}: the weights do not fit this code ({error}). Train again, or check out its commit"
        ) from error
    # Serving knows all outcomes of the log; the run itself, those before the test split alone.
    recalibration = recalibrate_at(
        "log_end",
        run.ranker,
        run.query_tower,
        run.catalog,
        run.candidates_folder,
        run.tasks,
        run.prepared.meta,
    )
    return ExportableRun(
        folder=run.folder,
        retrieval_folder=run.retrieval_folder,
        cfg=run.cfg,
        run_manifest=run.manifest,
        retrieval_manifest=read_stage_manifest(run.retrieval_folder),
        prepared=run.prepared,
        schema=FeatureSchema.load(run.prepared.folder),
        items=pq.read_table(run.prepared.folder / "items.parquet"),
        catalog=catalog_at_snapshot(latest_snapshot(run.catalog), 0, run.query_tower.n_sales),
        tower=run.query_tower,
        ranker=run.ranker,
        sources=latest_sources(run),
        tasks=run.tasks,
        recalibration=recalibration,
    )


def load_item_tower(run: ExportableRun) -> ItemEncoder:
    """The item tower of a run, with float tables."""
    towers = build_two_tower(run.cfg, run.prepared.table_sizes)
    towers.load_state_dict(load_run_weights(run.retrieval_folder))
    return towers.item_encoder.eval()


def latest_sources(run: Run) -> CandidateSources:
    """The candidate tables of the latest snapshot."""
    tables = open_source_tables(run.cfg, run.prepared, run.catalog)
    return tables.candidate_sources(len(tables.snapshot_dates) - 1)


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """Reads the calibration of the tasks, over all candidates and by slice, from the run's evaluation report.

    The report measures calibration on the test split, because calibrators are fitted on validation. None for
    a run without evaluation. Reports of earlier releases have the key `head` in place of `task`.
    """
    file = folder / "evaluation-test" / "report.json"
    if not file.is_file():
        return None
    report = json.loads(file.read_text())
    slices = [{"task": row.get("task") or row["head"], **row} for row in report["calibration"]]
    for row in slices:
        row.pop("head", None)
    return {"split": report["split"], "checkouts": report["checkouts"], "slices": slices}


def latest_snapshot(catalog: Catalog) -> Catalog:
    """The catalog with its latest snapshot only."""
    return catalog._replace(**{name: getattr(catalog, name)[-1:] for name in SNAPSHOT_FIELDS})


def sample_checkouts(run: ExportableRun, splits: tuple[str, ...], count: int) -> pa.Table:
    """Up to `count` checkouts with a basket, evenly spaced in the first split, then in the next splits.

    Raises ExportError if no split has such a checkout.
    """
    parts: list[pa.Table] = []
    missing = count
    for split in splits:
        path = run.prepared.folder / "examples" / f"{split}.parquet"
        if not path.is_file() or missing == 0:
            continue
        table = pq.read_table(path)
        usable = table.filter(pc.greater(pc.list_value_length(table["basket_item"]), 0))
        rows = np.unique(np.linspace(0, len(usable) - 1, min(missing, len(usable))).astype(np.int64))
        parts.append(usable.take(pa.array(rows)))
        missing -= len(rows)
    if not parts or not sum(map(len, parts)):
        raise ExportError(f"{run.prepared.folder}: no {' or '.join(splits)} checkouts to measure with")
    return pa.concat_tables(parts)


def to_latest_queries(examples: pa.Table) -> Query:
    """Turns examples into a query of the latest snapshot, instead of the snapshots of the examples' times."""
    query = to_batch(examples).query
    return query._replace(snapshot=torch.zeros_like(query.snapshot))


def item_margins(run: ExportableRun) -> NDArray:
    """Returns the share of the price that the shop keeps: [N+1] float32 by item row, NaN if unknown."""
    return run.items["margin"].cast(pa.float32()).to_numpy()


def slate_items(run: ExportableRun) -> SlateItems:
    """The columns of the items that the selection of a slate reads."""
    title = run.items["title"].cast(pa.string()).combine_chunks()
    catalog = run.catalog
    return SlateItems(catalog.leaf.numpy(), product_codes(title), catalog.vectors.numpy(), run.tower.n_sales)


def item_ids(run: ExportableRun) -> list[str]:
    """Item ids by row; row 0 has an id that no item has."""
    return ["(unknown)", *run.items["item_id"].to_pylist()[1:]]
