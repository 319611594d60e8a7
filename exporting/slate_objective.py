"""The slate policy of a bundle, and the entries of its objective in manifest and items."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from exporting.exportable_run import ExportableRun, ExportError, item_margins
from serving.pipeline.objective import parse_objective
from serving.pipeline.slate_policy import SlatePolicy, impute_column
from training.objective import check_objective, run_objective


def read_policy(run: ExportableRun, settings: DictConfig) -> SlatePolicy:
    """The slate policy of `settings.slate`, its objective by default that of the run.

    Raises ExportError for a policy that the run cannot serve, as `check_objective` describes it.
    """
    slate: Any = OmegaConf.to_container(settings.slate, resolve=True)
    slate["objective"] = slate.get("objective") or run_objective(run.cfg, run.tasks)
    try:
        return check_objective(slate, run.tasks, run.catalog, run.items).policy
    except ValueError as error:
        message = str(error).removeprefix("slate.")
        raise ExportError(f"bundle.slate.{message}") from error


def objective_columns(run: ExportableRun, policy: SlatePolicy) -> dict[str, NDArray[np.floating]]:
    """The item columns that the policy's objective names, each [N+1], the mean where unknown."""
    columns = check_objective(asdict(policy), run.tasks, run.catalog, run.items).columns
    return {name: values[0] for name, values in columns.items()}


def policy_columns(run: ExportableRun, policy: SlatePolicy) -> dict[str, NDArray[np.floating]]:
    """`objective_columns`, and the margins where the policy counts them."""
    margins = {"margin": impute_column("margin", item_margins(run))} if policy.margin else {}
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
