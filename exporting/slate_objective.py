"""Reads the slate policy of a bundle, and makes the entries of its objective in manifest and items."""

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from exporting.exportable_run import ExportableRun, ExportError
from serving.pipeline.objective import objective_names, parse_objective
from training.objective import CheckedObjective, check_objective, run_objective

# Settings of `slate` that are by default the run's, with those of runs that lack them.
RUN_SETTINGS: dict[str, Any] = {
    "exclude_basket": False,
    "exclude_bought_within": None,
    "repeat_categories": [],
}


def read_objective(run: ExportableRun, settings: DictConfig) -> CheckedObjective:
    """Reads the slate policy of `settings.slate`. An unset objective or exclusion comes from the run.

    Raises ExportError for a policy that the run cannot serve (see `check_objective`).
    """
    slate: Any = OmegaConf.to_container(settings.slate, resolve=True)
    slate["objective"] = slate.get("objective") or run_objective(run.cfg, run.tasks)
    trained: Any = OmegaConf.to_container(run.cfg.slate, resolve=True)
    slate.setdefault("product_cap", None)  # of a version that an earlier release exported
    for name, default in RUN_SETTINGS.items():
        if slate.get(name) is None:
            slate[name] = trained.get(name, default)
    try:
        return check_objective(slate, run.tasks, run.catalog, run.items)
    except ValueError as error:
        message = str(error).removeprefix("slate.")
        raise ExportError(f"bundle.slate.{message}") from error


def named_columns(objective: CheckedObjective) -> list[str]:
    """The item columns that the expression names; the bundle holds a column for each."""
    names = objective_names(parse_objective(objective.policy.objective))
    return sorted(name for name in objective.columns if name in names)


def manifest_entries(run: ExportableRun, objective: CheckedObjective) -> dict[str, Any]:
    """The entries `tasks`, `objective` and `slate` of a manifest."""
    fields = ("name", "kind", "label", "window", "given", "joint", "control")
    expression = objective.policy.objective
    return {
        "tasks": [{name: getattr(task, name) for name in fields} for task in run.tasks],
        "objective": {
            "expression": expression,
            "tree": parse_objective(expression),
            "item_columns": named_columns(objective),
        },
        "slate": asdict(objective.policy),
    }
