"""Links to MLflow's page of runs, with columns of validation metrics.

A view is a tag of the experiment, in the form that MLflow's button "Share" writes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from training.loggers import logs_to_mlflow
from training.tracking import make_client, read_run_id

VIEW_TAG = "mlflow.sharedViewState."
METRICS = ("validation/revenue6", "validation/ndcg6", "validation/recall300")  # as many runs as a page shows
LOCAL_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` listens


def sweep_view(cfg: DictConfig, name: str, folders: Sequence[Path], parameters: Sequence[str]) -> str | None:
    """Returns the address of a page that compares the validation metrics and these parameters of runs.

    None if MLflow lacks the runs. A view of the same `name` is replaced.
    """
    if not logs_to_mlflow(cfg):
        return None
    run_ids = [run_id for folder in folders if (run_id := read_run_id(folder))]
    try:
        client = make_client(cfg)
        experiment = client.get_experiment_by_name(str(cfg.mlflow.experiment))
        if experiment is None or not run_ids:
            return None
        ids = ", ".join(f"'{run_id}'" for run_id in run_ids)
        columns = [f"params.`{parameter}`" for parameter in parameters]
        _write_view(client, experiment.experiment_id, name, columns, f"attributes.run_id IN ({ids})", cfg)
    except (MlflowException, OSError):
        return None
    uri = str(cfg.mlflow.tracking_uri)
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else LOCAL_SERVER
    return f"{server}/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={name}"


def _write_view(
    client: MlflowClient, experiment_id: str, name: str, columns: list[str], runs: str, cfg: DictConfig
) -> None:
    metrics = [f"metrics.`{metric}`" for metric in dict.fromkeys([str(cfg.objective_metric), *METRICS])]
    state = {
        "selectedColumns": [*metrics, *columns],
        "searchFilter": runs,
        "orderByKey": f"metrics.`{cfg.objective_metric}`",
        "orderByAsc": False,
    }
    client.set_experiment_tag(experiment_id, f"{VIEW_TAG}{name}", json.dumps(state))
