"""The MLflow registry: a model version per challenger, with the aliases `champion` and `challenger`."""

from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from omegaconf import DictConfig

from training.stage_folders import read_stage_manifest
from training.tracking import make_client


def register_challenger(cfg: DictConfig, folder: Path, bundle: str, reason: str) -> None:
    """Register the bundle of a run as the challenger. Done twice, it changes nothing."""
    client, name = make_client(cfg), cfg.retrain.registered
    try:
        client.create_registered_model(name, description="Sextet: what serves, and what was to")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = _find_version(client, name, bundle)
    if made is None:
        run_id = read_stage_manifest(folder)["mlflow_run_id"]
        made = client.create_model_version(
            name, str(folder.resolve()), run_id, tags={"bundle": bundle}, description=reason
        )
    client.set_registered_model_alias(name, "challenger", made.version)


def set_champion_alias(cfg: DictConfig, bundle: str) -> None:
    """Give the alias champion to a bundle; nothing for one that was not registered."""
    client, name = make_client(cfg), cfg.retrain.registered
    made = _find_version(client, name, bundle)
    if made is not None:
        client.set_registered_model_alias(name, "champion", made.version)


def _find_version(client: MlflowClient, name: str, bundle: str) -> ModelVersion | None:
    found = client.search_model_versions(f"name='{name}'")
    return next((version for version in found if version.tags.get("bundle") == bundle), None)
