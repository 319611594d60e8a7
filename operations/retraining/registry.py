"""Model versions in the MLflow registry: one per challenger, with the aliases `champion` and `challenger`."""

from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from training.loggers import logs_to_mlflow
from training.tracking import make_client, read_run_id


def register_challenger(cfg: DictConfig, folder: Path, bundle: str, reason: str) -> None:
    """Register the bundle of a run as the challenger, unless it is registered already.

    Nothing is registered without `logger=mlflow`.
    """
    if not logs_to_mlflow(cfg):
        return
    client, name = make_client(cfg), cfg.retrain.registered
    try:
        client.create_registered_model(name, description="Sextet: champions and challengers")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = _find_version(client, name, bundle)
    if version is None:
        run_id = read_run_id(folder)
        # A server refuses the path of a folder of this machine, which its clients could not read.
        source = str(folder.resolve()) if run_id is None else f"runs:/{run_id}/{folder.name}"
        version = client.create_model_version(
            name, source, run_id, tags={"bundle": bundle}, description=reason
        )
    client.set_registered_model_alias(name, "challenger", version.version)


def set_champion_alias(cfg: DictConfig, bundle: str) -> None:
    """Give the alias `champion` to a bundle, if it is registered."""
    if not logs_to_mlflow(cfg):
        return
    client, name = make_client(cfg), cfg.retrain.registered
    version = _find_version(client, name, bundle)
    if version is not None:
        client.set_registered_model_alias(name, "champion", version.version)


def _find_version(client: MlflowClient, name: str, bundle: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name='{name}'")
    return next((version for version in versions if version.tags.get("bundle") == bundle), None)
