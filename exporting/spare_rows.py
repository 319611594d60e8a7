"""Spare item rows at the end of a bundle, which serving gives to new items (serving/live_items)."""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from exporting.exportable_run import ExportableRun
from models.schema import SNAPSHOT_FIELDS
from training.objective import CheckedObjective


def with_spare_rows(run: ExportableRun, count: int) -> ExportableRun:
    """Returns the run with `count` more item rows. Their items have no id, are not available and were
    never sold.
    """
    if not count:
        return run
    fields = {
        name: _pad(getattr(run.catalog, name), count, is_by_snapshot=name in SNAPSHOT_FIELDS)
        for name in run.catalog._fields
    }
    unknown_item = run.items.take(pa.array(np.zeros(count, np.int64)))
    return run._replace(
        items=pa.concat_tables([run.items, unknown_item]),
        catalog=run.catalog._replace(**fields),
        sources=run.sources.with_item_rows(run.items.num_rows + count),
    )


def pad_objective(objective: CheckedObjective, count: int) -> CheckedObjective:
    """Adds the values of `count` spare rows to the objective, copied from the unknown item."""
    columns = {
        name: np.concatenate([values, np.repeat(values[:, :1], count, axis=1)], axis=1)
        for name, values in objective.columns.items()
    }
    return objective._replace(columns=columns)


def _pad(values: Tensor, count: int, is_by_snapshot: bool) -> Tensor:
    """Adds `count` item rows to `values`, as copies of row 0.

    Values by snapshot get zeros, because their row 0 holds the usual item.
    """
    if is_by_snapshot:
        return torch.cat([values, values.new_zeros(values.shape[0], count)], dim=1)
    return torch.cat([values, values[:1].expand(count, *values.shape[1:])])
