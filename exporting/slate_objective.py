"""The objective of a bundle: checked against the tasks and item columns of its run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from evaluation.objective import run_objective, task_kinds
from exporting.exportable_run import ExportableRun, ExportError, item_margins
from models.schema import SNAPSHOT_FIELDS
from serving.pipeline.objective import Range, objective_names, parse_objective
from serving.pipeline.slate_policy import SlatePolicy, check_policy, impute_column, impute_margins

ATTRIBUTE_PREFIX = "attribute_"  # of the numeric attributes in items.parquet


def read_policy(run: ExportableRun, settings: DictConfig) -> SlatePolicy:
    """The slate policy of `settings.slate`, its objective by default that of the run.

    Raises ExportError for a policy that the run cannot serve: a name that is neither a task nor an item
    column, a division by what may be 0, an order by margin without margins.
    """
    slate = dict(OmegaConf.to_container(settings.slate, resolve=True))
    slate["objective"] = slate.get("objective") or run_objective(run.cfg, run.tasks)
    try:
        policy = SlatePolicy(**slate)
        columns = objective_columns(run, policy)
        if policy.margin:
            columns["margin"] = impute_margins(item_margins(run))
        readable = {**dict.fromkeys(item_columns(run), Range(0.0, 0.0)), **_ranges(columns)}
        check_policy(policy, task_kinds(run.tasks), readable)
    except ValueError as error:
        raise ExportError(f"bundle.{error}") from error
    return policy


def item_columns(run: ExportableRun) -> dict[str, NDArray[np.floating]]:
    """The numeric columns of the items that an objective may name, each [N+1], NaN where unknown."""
    columns = {name: getattr(run.catalog, name)[0].numpy() for name in SNAPSHOT_FIELDS}
    columns["margin"] = item_margins(run)
    for name in run.items.column_names:
        if name.startswith(ATTRIBUTE_PREFIX) and name != "attribute_codes":
            values = run.items[name].to_numpy().astype(np.float64)
            columns.setdefault(name.removeprefix(ATTRIBUTE_PREFIX), values)
    return columns


def objective_columns(run: ExportableRun, policy: SlatePolicy) -> dict[str, NDArray[np.floating]]:
    """The item columns that the policy's objective names, each [N+1], the mean where unknown.

    Raises ValueError for a column without any value.
    """
    columns, tasks = item_columns(run), task_kinds(run.tasks)
    names = objective_names(parse_objective(policy.objective))
    return {
        name: impute_column(name, columns[name]) for name in names if name in columns and name not in tasks
    }


def policy_columns(run: ExportableRun, policy: SlatePolicy) -> dict[str, NDArray[np.floating]]:
    """`objective_columns`, and the margins where the policy counts them."""
    margins = {"margin": impute_margins(item_margins(run))} if policy.margin else {}
    return objective_columns(run, policy) | margins


def manifest_entries(run: ExportableRun, policy: SlatePolicy) -> dict[str, Any]:
    """The entries `tasks`, `objective` and `slate` of a manifest."""
    fields = ("name", "kind", "label", "window", "given", "joint")
    return {
        "tasks": [{name: getattr(task, name) for name in fields} for task in run.tasks],
        "objective": {
            "expression": policy.objective,
            "tree": parse_objective(policy.objective),
            "item_columns": sorted(objective_columns(run, policy)),
        },
        "slate": asdict(policy),
    }


def _ranges(columns: Mapping[str, NDArray[np.floating]]) -> dict[str, Range]:
    return {name: Range(float(values.min()), float(values.max())) for name, values in columns.items()}
