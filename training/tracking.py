"""MLflow: one run per stage folder, found again when its command is run again."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import mlflow
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig
from pytorch_lightning.loggers import MLFlowLogger

from training.config import flatten_config
from training.stage_folders import ROOT

RUN_ID_FILE = "mlflow_run_id"


def start_run(cfg: DictConfig, folder: Path, tags: dict[str, str]) -> str:
    """The id of the MLflow run of this folder: a new one with parameters and tags, or the one it has."""
    client = make_client(cfg)
    note = folder / RUN_ID_FILE
    if note.is_file():
        return note.read_text()
    found = client.get_experiment_by_name(cfg.mlflow.experiment)
    experiment = found.experiment_id if found else client.create_experiment(cfg.mlflow.experiment)
    tags = tags | {"git_commit": git_commit(), "folder": str(folder.resolve())}
    run = client.create_run(
        experiment,
        tags=tags,
        run_name=folder.name,
    )
    for key, value in flatten_config(cfg).items():
        client.log_param(run.info.run_id, key, value)
    note.write_text(run.info.run_id)
    return run.info.run_id


def make_client(cfg: DictConfig) -> MlflowClient:
    """A client of the configured tracking server; makes a local sqlite file if need be."""
    uri = cfg.mlflow.tracking_uri
    if uri.startswith("sqlite:///"):
        _make_database(Path(uri.removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri)
    return MlflowClient(uri)


def _make_database(file: Path) -> None:
    """Create MLflow's tables beside and link them into place: a kill amid its migrations leaves a wreck."""
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
    made = MLFlowLogger(
        cfg.mlflow.experiment, tracking_uri=cfg.mlflow.tracking_uri, run_id=run_id, prefix=stage
    )
    made.LOGGER_JOIN_CHAR = "/"
    return made


def finish_run(cfg: DictConfig, run_id: str, metrics: dict[str, float], artifacts: list[Path]) -> None:
    """Log final metrics and files, and close the run."""
    client = make_client(cfg)
    for name, value in metrics.items():
        client.log_metric(run_id, name, value)
    for file in artifacts:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id)


def find_run_folder(tracking_uri: str, run_id: str) -> Path:
    """The run folder that an MLflow run id stands for. Raises ValueError if there is none."""
    try:
        run = MlflowClient(tracking_uri).get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"{run_id} is neither a run folder nor a run in {tracking_uri}: {error}") from error
    return Path(run.data.tags["folder"])


def git_commit() -> str:
    """The commit of this checkout, marked when files differ from it; `unknown` outside git."""
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
    """Numbers of a dict, with a prefix, as MLflow metrics."""
    return {
        f"{prefix}/{k}": float(v)
        for k, v in row.items()
        if isinstance(v, int | float) and not isinstance(v, bool)
    }
