"""MLflow: one run per stage folder; a command that runs again continues it."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig
from pytorch_lightning.loggers import MLFlowLogger

from data.io.code_hash import ROOT
from training.config_keys import flatten_config

RUN_ID_FILE = "mlflow_run_id"


def start_run(cfg: DictConfig, folder: Path, tags: dict[str, str]) -> str:
    """The id of the folder's MLflow run: the existing one, or a new one with parameters and tags."""
    client = make_client(cfg)
    if run_id := read_run_id(folder):
        return run_id
    experiment = client.get_experiment_by_name(cfg.mlflow.experiment)
    experiment_id = (
        experiment.experiment_id if experiment else client.create_experiment(cfg.mlflow.experiment)
    )
    tags = tags | {"git_commit": git_commit(), "folder": str(folder.resolve())}
    run = client.create_run(experiment_id, tags=tags, run_name=folder.name)
    for key, value in flatten_config(cfg).items():
        client.log_param(run.info.run_id, key, value)
    (folder / RUN_ID_FILE).write_text(run.info.run_id)
    return run.info.run_id


def read_run_id(folder: Path) -> str | None:
    """The id of a folder's MLflow run; None before `start_run`."""
    file = folder / RUN_ID_FILE
    return file.read_text() if file.is_file() else None


def make_client(cfg: DictConfig) -> MlflowClient:
    """A client of the configured tracking server; creates a local SQLite file that is missing."""
    uri = cfg.mlflow.tracking_uri
    if uri.startswith("sqlite:///"):
        _make_database(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _make_database(file: Path) -> None:
    """Create MLflow's tables in a temporary file and link it into place.

    A process that dies amid MLflow's migrations would leave an unusable database.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    MlflowClient(f"sqlite:///{partial}").search_experiments()
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.link(partial, file)
    partial.unlink()


def make_logger(cfg: DictConfig, run_id: str, stage: str) -> MLFlowLogger:
    """Lightning's logger for one stage; its metrics are named `<stage>/<metric>`."""
    logger = MLFlowLogger(
        cfg.mlflow.experiment, tracking_uri=cfg.mlflow.tracking_uri, run_id=run_id, prefix=stage
    )
    logger.LOGGER_JOIN_CHAR = "/"
    return logger


def finish_run(cfg: DictConfig, run_id: str, metrics: dict[str, float], artifacts: list[Path]) -> None:
    """Log final metrics and files, and end the run."""
    client = make_client(cfg)
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    for file in artifacts:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)


def find_run_folder(tracking_uri: str, run_id: str) -> Path:
    """The folder of an MLflow run. Raises ValueError for an unknown id."""
    try:
        run = MlflowClient(tracking_uri).get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{run_id} is neither a run folder nor a run in {tracking_uri}: {error}") from error
    return Path(run.data.tags["folder"])


def git_commit() -> str:
    """The commit of this checkout, with `-modified` when files differ from it; `unknown` outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("-modified" if changed.stdout.strip() else "")


def prefix_metrics(row: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of a dict as MLflow metrics `<prefix>/<name>`."""
    return {
        f"{prefix}/{name}": float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
