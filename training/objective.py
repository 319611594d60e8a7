"""Checks the objective of slates against the tasks of a run and the columns of its items."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from omegaconf import DictConfig

from models.ranking.tasks import Task, default_objective
from models.schema import SNAPSHOT_FIELDS, Catalog
from serving.pipeline.objective import Range, objective_names, parse_objective
from serving.pipeline.slate_policy import SlatePolicy, check_policy, impute_column
from training.errors import ConfigError
from training.prepared_data import PreparedData

ATTRIBUTE_PREFIX = "attribute_"  # of the numeric attributes in items.parquet
ATTRIBUTE_CODES = "attribute_codes"  # holds the codes of all attributes, no number

Columns = dict[str, NDArray[np.floating]]  # name → [S, N+1], by snapshot and item


class CheckedObjective(NamedTuple):
    """A slate policy whose objective can score every item."""

    policy: SlatePolicy
    columns: Columns  # columns that the policy reads, also margin if it counts; unknown values are the mean


def run_objective(cfg: DictConfig, tasks: tuple[Task, ...]) -> str:
    """The objective of a run's config, or else the default objective for the run's tasks."""
    return cfg.slate.objective or default_objective(tasks)


def check_run_objective(cfg: DictConfig, tasks: tuple[Task, ...], prepared: PreparedData) -> CheckedObjective:
    """Check the objective of a run's config over its prepared folder, without margin and revenue weight.

    Raises ConfigError for an objective that the tasks and items cannot compute.
    """
    items = pq.read_table(prepared.folder / "items.parquet")
    try:
        return check_objective({"objective": run_objective(cfg, tasks)}, tasks, prepared.catalog, items)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def task_kinds(tasks: tuple[Task, ...]) -> dict[str, str]:
    """Returns the name of each task → its kind, in the order of the tasks."""
    return {task.name: task.kind for task in tasks}


def item_columns(catalog: Catalog, items: pa.Table) -> Columns:
    """The numeric columns of the items that an objective may name, NaN where unknown.

    Args:
        catalog: of S snapshots.
        items: items.parquet of the prepared folder, N+1 rows.
    """
    columns: Columns = {name: getattr(catalog, name).numpy() for name in SNAPSHOT_FIELDS}
    shape = catalog.price.shape

    def by_snapshot(name: str, dtype: type[np.floating]) -> NDArray[np.floating]:
        return np.broadcast_to(items[name].to_numpy().astype(dtype), shape)  # no copy per snapshot

    columns["margin"] = by_snapshot("margin", np.float32)
    for name in items.column_names:
        if name.startswith(ATTRIBUTE_PREFIX) and name != ATTRIBUTE_CODES:
            columns.setdefault(name.removeprefix(ATTRIBUTE_PREFIX), by_snapshot(name, np.float64))
    return columns


def check_objective(
    slate: Mapping[str, Any], tasks: tuple[Task, ...], catalog: Catalog, items: pa.Table
) -> CheckedObjective:
    """Check the policy of `slate` (fields of SlatePolicy). Return it with the item columns that it reads.

    Raises ValueError for a name that is neither a task nor a numeric item column, for a divisor that may be
    0, and for a column without values.
    """
    policy, kinds = SlatePolicy(**slate), task_kinds(tasks)
    readable = item_columns(catalog, items)
    names = {name for name in objective_names(parse_objective(policy.objective)) if name not in kinds}
    if policy.margin:
        names.add("margin")
    columns = {name: impute_column(name, readable[name]) for name in sorted(names) if name in readable}
    ranges = {name: Range(float(values.min()), float(values.max())) for name, values in columns.items()}
    check_policy(policy, kinds, dict.fromkeys(readable, Range(0.0, 0.0)) | ranges)
    return CheckedObjective(policy, columns)
