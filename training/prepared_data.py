"""A prepared folder, opened for training, evaluation and export."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor

from data.catalog import load_catalog
from data.errors import DataError
from data.feature_schema import FeatureSchema
from models.schema import SNAPSHOT_FIELDS, Catalog, ItemText

SLATE_SIZE = 6
MIN_TRAIN_CHECKOUTS = 4  # at least one for each model, and a few to spare


class PreparedData(NamedTuple):
    """An opened prepared folder."""

    folder: Path
    meta: dict[str, Any]  # meta.json
    table_sizes: dict[str, Any]  # FeatureSchema.table_sizes()
    catalog: Catalog  # without vectors
    text: ItemText


def open_prepared(folder: Path) -> PreparedData:
    """Read the schema, catalog and meta.json of a prepared folder.

    Raises DataError for too few items or checkouts, and for a folder of an earlier release.
    """
    columns = pq.read_schema(folder / "snapshots.parquet").names
    if missing := [name for name in SNAPSHOT_FIELDS if name not in columns]:
        raise DataError(
            f"{folder}: prepared by an earlier release (snapshots.parquet has no column {missing[0]}). "
            "Train again: python train.py; warm.run=RUN starts from the weights of the old run"
        )
    catalog, text = load_catalog(folder)
    meta = json.loads((folder / "meta.json").read_text())
    available = int(catalog.available.sum())
    if available < SLATE_SIZE:
        raise DataError(
            f"{available} of {catalog.leaf.numel() - 1} items are available, a slate needs {SLATE_SIZE}. "
            "Check `available` in the items table"
        )
    train = meta["counts"]["checkouts"]["train"]
    if train < MIN_TRAIN_CHECKOUTS:
        raise DataError(
            f"{train} checkouts to train on, at least {MIN_TRAIN_CHECKOUTS} are needed: bring a longer log, "
            "shorten data.horizon or move data.split"
        )
    return PreparedData(folder, meta, FeatureSchema.load(folder).table_sizes(), catalog, text)


def training_prices(prepared: PreparedData) -> Tensor:
    """The prices [N+1] that the item tower reads: those of the last snapshot before validation."""
    dates = torch.tensor(prepared.meta["snapshot_dates"])
    last = int((dates <= prepared.meta["split"]["validation_start"]).sum()) - 1
    return prepared.catalog.price[max(last, 0)]
